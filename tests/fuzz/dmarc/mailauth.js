'use strict';
// Says what mailauth (RFC 7489) makes of records. NODE_PATH names where it is.

const { createInterface } = require('node:readline');
const path = require('node:path');
const lib = path.dirname(require.resolve('mailauth/package.json'));
const verify = require(path.join(lib, 'lib/dmarc/verify.js'));

async function answer(asked) {
    const resolver = async name => {
        const found = asked.records[name.replace(/^_dmarc\./, '')];
        if (!found || !found.length) {
            throw Object.assign(new Error('no such name'), { code: 'ENOTFOUND' });
        }
        return found.map(text => [text]);
    };
    const said = await verify({
        headerFrom: [`ann@${asked.author}`],
        spfDomains: asked.spf ? [asked.spf] : [],
        dkimDomains: asked.dkim.map(domain => ({ domain })),
        resolver
    });
    if (said.status.result === 'pass') {
        return 'pass';
    }
    if (said.status.result === 'none') {
        return '';
    }
    const policy = String(said.policy).trim().toLowerCase();
    return ['none', 'quarantine', 'reject'].includes(policy) ? policy : '?';
}

(async () => {
    for await (const line of createInterface({ input: process.stdin })) {
        process.stdout.write(JSON.stringify(await answer(JSON.parse(line))) + '\n');
    }
})();

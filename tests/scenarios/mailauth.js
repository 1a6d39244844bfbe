// What mailauth (npm) says of messages: JSON on standard input, JSON on standard output.
// See mailauth.py beside this file for what is in it.
'use strict';

const { createRequire } = require('node:module');
const dns = require('node:dns').promises;
const fs = require('node:fs');
const { authenticate } = createRequire(process.argv[2] + '/')('mailauth');

const asked = JSON.parse(fs.readFileSync(0, 'utf8'));

function none(name) {
    const error = new Error(`no such record: ${name}`);
    error.code = 'ENOTFOUND';
    return error;
}

// records from the table, or from the name server
function resolver() {
    if (asked.server) {
        const server = new dns.Resolver({ timeout: 3000, tries: 2 });
        server.setServers([asked.server]);
        return (name, type) => server.resolve(name, type);
    }
    return async (name, type) => {
        const found = (asked.records[name.replace(/\.$/, '').toLowerCase()] || {})[type];
        if (!found) throw none(name);
        if (type === 'TXT') return found.map(text => [text]);
        if (type !== 'MX') return found;
        return found.map(text => text.split(' ')).map(([priority, exchange]) => ({ priority: +priority, exchange }));
    };
}

(async () => {
    const resolve = resolver();
    const said = [];
    for (const { content, ip, helo, sender } of asked.messages) {
        const found = await authenticate(Buffer.from(content, 'base64'), {
            ip,
            helo,
            sender,
            mta: 'mailauth.example',
            resolver: resolve,
            seal: asked.seal || undefined,
            disableBimi: true
        });
        const signatures = found.dkim.results.filter(one => one.signingDomain);
        said.push({
            dkim: signatures.map(one => ({
                result: one.status.result,
                domain: one.signingDomain,
                selector: one.selector,
                algorithm: one.algo,
                comment: one.status.comment || ''
            })),
            spf: found.spf ? found.spf.status.result : 'none',
            dmarc: found.dmarc && found.dmarc.status ? found.dmarc.status.result : 'none',
            arc: found.arc && found.arc.status ? found.arc.status.result : 'none',
            fields: found.headers
        });
    }
    process.stdout.write(JSON.stringify(said));
})();

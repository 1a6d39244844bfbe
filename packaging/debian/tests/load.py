"""Sends until it is told to stop, and counts: load.py HOST PORT CLIENTS COUNTS

Every connection has to be answered with a greeting; a session that the server ends with 421 is
tried again. COUNTS.accepted names what was accepted, one a line. Ends with 1 if a connection was
refused or reset before its greeting.
"""

from __future__ import annotations

import smtplib
import sys
import threading
from collections import Counter
from pathlib import Path


def main() -> int:
    """Load, count, tell."""
    host, port, clients = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    counts = Path(sys.argv[4])
    enough, lock = counts.with_suffix(".enough"), threading.Lock()
    met: Counter[str] = Counter()
    accepted: list[str] = []

    def client(number: int) -> None:
        turn = 0
        while not enough.exists():
            turn += 1
            text = f"load-{number}-{turn}"
            what = send(host, port, text)
            with lock:
                met[what] += 1
                if what == "accepted":
                    accepted.append(text)
            counts.with_suffix(".begun").touch()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts.with_suffix(".accepted").write_text("".join(f"{text}\n" for text in accepted))
    counts.write_text(f"{dict(met)}\n")
    return 1 if met["lost"] or not accepted else 0


def send(host: str, port: int, text: str) -> str:
    """`accepted`, `again` (asked to come again later), or `lost` before the greeting."""
    try:
        client = smtplib.SMTP(timeout=120)
        code, _ = client.connect(host, port)
    except (OSError, smtplib.SMTPServerDisconnected) as error:
        print(text, repr(error), flush=True)
        return "lost"
    if code != 220:
        return "again"
    try:
        client.sendmail("a@example.org", ["b@example.net"], f"Subject: x\r\n\r\n{text}\r\n")
        client.quit()
    except (OSError, smtplib.SMTPException):
        # before the end of the content or in its place: nobody was told that it was taken;
        # after it, only the QUIT is lost and the mail is counted as not accepted
        return "again"
    return "accepted"


if __name__ == "__main__":
    sys.exit(main())

"""Until when certificates hold, by their files."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from relayd.tls import dates, pair
from relayd.tls.dates import CertificateDates
from relayd.tls.files import CertificateFiles
from tests.certs import Authority
from tests.support import TestCase


class Dates(TestCase):
    def setUp(self) -> None:
        place = TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.issued = Authority().issue("mx.example")
        self.certificate, self.key = self.issued.write(Path(place.name), "mx")
        self.files = CertificateFiles(self.certificate, self.key)

    def test_a_file_is_read_once_for_each_state(self) -> None:
        known = CertificateDates()
        with patch.object(dates, "load", wraps=pair.load) as load:
            for _ in range(3):
                (found,) = known.of([self.files, CertificateFiles(self.certificate, self.key)])
                self.assertEqual((found.file, found.trouble), (self.certificate, ""))
                self.assertGreater(found.until, 1.7e9)
            self.assertEqual(load.call_count, 1)
            self.key.write_text("nonsense")
            os.utime(self.key, (1, 1))
            (found,) = known.of([self.files])
            self.assertEqual(load.call_count, 2)
            self.assertEqual(found.until, 0.0)
            self.assertIn("holds no readable private key", found.trouble)

    def test_what_is_not_there_says_so(self) -> None:
        self.certificate.unlink()
        (found,) = CertificateDates().of([self.files])
        self.assertIn("cannot read", found.trouble)

"""A table that all workers share: bounded, and there after a process was killed."""

from __future__ import annotations

import os
import signal
import tempfile
import unittest
from pathlib import Path

from relayd.shared.keytable import WAYS, KeyTable


class KeyTableCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "table"

    def table(self, row: int = 4, keys: int = 1000) -> KeyTable:
        table = KeyTable(self.path, row, keys)
        self.addCleanup(table.close)
        return table

    def put(self, table: KeyTable, key: str, row: bytes, now: float = 1000.0) -> None:
        table.change(key, now, lambda _: row)


class Rows(KeyTableCase):
    def test_are_found_by_their_key(self) -> None:
        table = self.table()
        self.assertIsNone(table.look("ann"))
        self.put(table, "ann", b"abcd")
        self.put(table, "bob", b"efgh")
        self.assertEqual((table.look("ann"), table.look("bob")), (b"abcd", b"efgh"))
        self.assertCountEqual(table.rows(), [b"abcd", b"efgh"])
        self.assertEqual([table.remove("ann"), table.remove("ann")], [True, False])
        self.assertEqual([*table.rows()], [b"efgh"])

    def test_are_edited_as_they_are(self) -> None:
        table, seen = self.table(), list[bytes | None]()
        rows = [b"abcd", None, b"efgh", None]

        def edit(row: bytes | None) -> bytes | None:
            seen.append(row)
            return rows.pop(0)

        for _ in range(4):
            table.change("ann", 1000.0, edit)
        self.assertEqual(seen, [None, b"abcd", b"abcd", b"efgh"])
        self.assertEqual(table.look("ann"), b"efgh")

    def test_are_those_of_all_who_have_the_file(self) -> None:
        one, other = self.table(), self.table()
        self.put(one, "ann", b"abcd")
        self.assertEqual(other.look("ann"), b"abcd")

    def test_of_what_is_no_table_there_are_none(self) -> None:
        for text in (b"", b"something else\n" * 999, b"relayd key table\n"):
            with self.subTest(text):
                self.path.write_bytes(text)
                table = self.table()
                self.assertEqual([*table.rows()], [])
                self.put(table, "ann", b"abcd")
                self.assertEqual(self.table().look("ann"), b"abcd")

    def test_of_another_shape_are_forgotten(self) -> None:
        self.put(self.table(), "ann", b"abcd")
        self.assertIsNone(self.table(row=5).look("ann"))

    def test_a_table_that_is_closed_touches_nobodys_file(self) -> None:
        table = KeyTable(self.path, 4, 1000)
        table.close()
        with self.assertRaises(OSError):
            table.look("ann")
        table.close()


class Bounds(KeyTableCase):
    def test_as_many_keys_as_were_said_have_room(self) -> None:
        table = self.table(keys=4000)
        for number in range(4000):
            self.put(table, str(number), b"abcd")
        kept = sum(table.look(str(number)) is not None for number in range(4000))
        self.assertGreater(kept, 4000 * 0.98)

    def test_of_more_the_longest_unused_go_and_the_file_does_not_grow(self) -> None:
        table = self.table(keys=100)
        size = self.path.stat().st_size
        self.put(table, "ann", b"abcd")
        for number in range(5000):
            self.put(table, str(number), b"efgh", 1000.0 + number)
            self.put(table, "ann", b"abcd", 1001.0 + number)
        self.assertEqual(self.path.stat().st_size, size)
        self.assertLessEqual(len([*table.rows()]), 150 // WAYS * WAYS)
        self.assertEqual(table.look("ann"), b"abcd")

    def test_what_nobody_has_used_takes_no_room_on_the_disk(self) -> None:
        table = self.table(row=138, keys=1_000_000)
        self.put(table, "ann", bytes(138))
        status = self.path.stat()
        self.assertLess(status.st_size, 256 << 20)
        self.assertLess(status.st_blocks * 512, 1 << 20)


class Crashes(KeyTableCase):
    def test_what_a_killed_process_has_written_is_there(self) -> None:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            try:
                table = KeyTable(self.path, 4, 100_000)
                for number in range(10**4):  # all have room, however long we live
                    self.put(table, str(number), number.to_bytes(4, "big"))
                    os.write(writer, number.to_bytes(4, "big"))
                signal.pause()
            finally:
                os._exit(1)
        os.close(writer)
        told = b""
        while len(told) < 4 * 200:
            told += os.read(reader, 400)
        os.kill(child, signal.SIGKILL)
        while more := os.read(reader, 65536):
            told += more
        os.close(reader)
        os.waitpid(child, 0)
        table = self.table(keys=100_000)
        last = len(told) // 4
        for number in range(max(last - 500, 0), last):
            self.assertEqual(table.look(str(number)), number.to_bytes(4, "big"))
        self.put(table, "0", b"abcd")  # nobody holds a lock any more
        self.assertEqual(table.look("0"), b"abcd")

"""A disk that loses power: which files were renamed before their content was on it."""

import os
from contextlib import contextmanager
from pathlib import Path


class Renames:
    """What was synced and renamed.

    Attributes:
        names: of the files and folders that got their final name, and calls of os.sync, in order.
        unsynced: files that had not been synced when they, or a folder above them, were renamed.
        unsynced_folders: folders that were not synced after a rename in them.
        beside: name -> what else was in its folder when it got that name.
    """

    def __init__(self):
        self.names, self.unsynced, self.beside = [], [], {}
        self.unsynced_folders = set()


@contextmanager
def recorded(monkeypatch):
    """Record what os.fsync, os.sync, os.replace and os.rename are called with."""
    found, synced = Renames(), set()
    fsync, replace, rename, sync = os.fsync, os.replace, os.rename, os.sync

    def identity(path):
        state = os.stat(path)
        return state.st_dev, state.st_ino, state.st_size if os.path.isfile(path) else 0

    def note_sync(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.add(identity(path))
        found.unsynced_folders.discard(path)
        fsync(descriptor)

    def note_all():
        found.names.append("os.sync")
        found.unsynced.clear()
        found.unsynced_folders.clear()
        sync()

    def note_rename(how):
        def renamed(source, target, **options):
            source, target = Path(source), Path(target)
            inside = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
            hidden = target.name.startswith(".")  # moved out of the way, to be removed
            if not hidden:
                found.unsynced += [f"{target}: {p.name}" for p in inside if identity(p) not in synced]
            how(source, target, **options)
            if not hidden:
                found.names.append(target.name)
                found.beside[target.name] = {path.name for path in target.parent.iterdir()}
                found.unsynced_folders.add(str(target.parent))

        return renamed

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", note_sync)
        patch.setattr(os, "sync", note_all)
        patch.setattr(os, "replace", note_rename(replace))
        patch.setattr(os, "rename", note_rename(rename))
        yield found

"""Record renames and syncs, to find files that were renamed before their content was on disk."""

import os
from contextlib import contextmanager
from pathlib import Path


class Renames:
    """The recorded renames and syncs.

    Attributes:
        names: final names of files and folders, and calls of os.sync, in order.
        unsynced: files that were not synced before they, or a folder above them, were renamed.
        unsynced_folders: folders that were not synced after a rename in them.
        beside: name -> other files in its folder at the time of the rename.
    """

    def __init__(self):
        self.names, self.unsynced, self.beside = [], [], {}
        self.unsynced_folders = set()


@contextmanager
def recorded(monkeypatch):
    """Record the calls of os.fsync, os.sync, os.replace and os.rename."""
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
            hidden = target.name.startswith(".")  # renamed to be removed
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

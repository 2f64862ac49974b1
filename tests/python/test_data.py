"""`glyptic data` against a server that is everything a server can be: slow, short, forgetful, wrong."""

import errno
import gzip
import hashlib
import http.server
import io
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import subprocess
import tarfile
import threading
import time
import zipfile

import glyptic
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = os.environ.get("GLYPTIC_BUILD")
if not BUILD:
    pytest.skip("GLYPTIC_BUILD does not name a build folder", allow_module_level=True)
GLYPTIC = pathlib.Path(BUILD) / "bin" / "glyptic"
if not GLYPTIC.exists():
    pytest.skip(f"{GLYPTIC} is not built", allow_module_level=True)

ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
ENVIRONMENT.update(OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS="1")
for _name in "GLYPTIC_DATA", "GLYPTIC_MIRROR":
    ENVIRONMENT.pop(_name, None)

BODY = bytes(range(256)) * 1200  # 307,200 bytes; every position of a block differs from its neighbours
OTHER = BODY[::-1]


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; `server.plan[path]` is a list of behaviours, one for each request, then honest."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        plan = server.plan.get(self.path, [])
        behaviour = plan.pop(0) if plan else "honest"
        self.close_connection = True
        if callable(behaviour):
            behaviour = behaviour()
        if isinstance(behaviour, int):
            self.send_response(behaviour)
            if behaviour in (301, 302):
                self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        tag = server.tags.get(self.path, '"' + hashlib.sha256(body).hexdigest()[:8] + '"')
        if asked and self.headers.get("If-Range") in (None, tag) and behaviour != "no ranges":
            start = int(asked[1])
        if start >= len(body) and asked:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        part = body[start:]
        range_text = f"bytes {start}-{len(body) - 1}/{len(body)}"
        if behaviour == "wrong range" and start:
            range_text = f"bytes {start + 7}-{len(body) - 1}/{len(body)}"
        if behaviour == "range of another" and start:
            range_text = f"bytes {start}-{len(body)}/{len(body) + 1}"
        if behaviour == "other bytes" and start:
            part = bytes(255 - b for b in part)
        if behaviour == "no range header":
            range_text = ""
        if behaviour == "longer":
            part = part + b"more"
        self.send_response(206 if start or behaviour == "unasked range" else 200)
        if start and range_text or behaviour == "unasked range":
            self.send_header("Content-Range", range_text)
        if tag:
            self.send_header("ETag", tag)
        if behaviour == "gzip encoding":
            self.send_header("Content-Encoding", "gzip")
        if behaviour != "no length":
            self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if behaviour == "half":
            part = part[: len(part) // 2]
        if behaviour == "no length":
            part = part[: len(part) // 3]
        try:
            if behaviour == "stall":
                self.wfile.write(part[: len(part) // 2])
                self.wfile.flush()
                server.released.wait(20)
            elif behaviour == "slow":
                for i in range(0, len(part), 4096):
                    self.wfile.write(part[i : i + 4096])
                    self.wfile.flush()
                    if server.released.wait(0.05):
                        break
            else:
                self.wfile.write(part)
        except OSError:
            pass


@pytest.fixture
def server():
    it = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    it.daemon_threads = True
    it.files, it.plan, it.tags, it.requests, it.released = {}, {}, {}, [], threading.Event()
    it.url = f"http://127.0.0.1:{it.server_port}"
    thread = threading.Thread(target=it.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield it
    it.released.set()
    it.shutdown()
    it.server_close()


class Place:
    """A catalogue of one set `s` with one file `f`, and a folder for it."""

    def __init__(self, folder, server, capfd):
        self.folder, self.server, self.capfd = folder, server, capfd
        self.root = folder / "data"
        self.file = self.root / "s" / "f"
        server.files["/f"] = BODY
        self.entry = {"name": "f", "urls": [server.url + "/f"], "size": len(BODY), "sha256": sha(BODY)}

    def catalogue(self, *files):
        path = self.folder / "catalogue.json"
        one = {"title": "a title", "licence": "its licence", "source": "https://its.source",
               "files": list(files) or [self.entry]}  # fmt: skip
        path.write_text(json.dumps({"s": one}))
        return path

    def command(self, what="get", *more):
        quick = ["--timeout", "1", "--retries", "2", "--retry-wait", "0.01"] if what == "get" else []
        return [GLYPTIC, "data", what, "s", "--catalogue", self.folder / "catalogue.json", "--to", self.root,
                *quick, *more]  # fmt: skip

    def get(self, *more):
        if not (self.folder / "catalogue.json").exists():
            self.catalogue()
        return Result(self.capfd, self.command("get", *more)[1:])

    def ok(self, *more):
        result = self.get(*more)
        assert result.returncode == 0, result.stderr
        assert self.parts() == []
        return result

    def refused(self, code=3, *more):
        result = self.get(*more)
        assert result.returncode == code, result.stderr
        line = result.stderr.splitlines()[-1]
        assert line.startswith("glyptic: ") and "internal error" not in line, result.stderr
        assert not self.file.exists()
        return line

    def verify(self):
        return Result(self.capfd, self.command("verify")[1:])

    def parts(self):
        return sorted(p.name for p in self.root.rglob("*part*"))


class Result:
    """What a command left behind. Most tests run it in this process: loading torch takes longer than the rest."""

    def __init__(self, capfd, arguments):
        capfd.readouterr()
        self.returncode = glyptic._C.cli([str(a) for a in arguments])
        self.stdout, self.stderr = capfd.readouterr()


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in set(os.environ) - set(ENVIRONMENT):
        monkeypatch.delenv(name)


@pytest.fixture
def place(tmp_path, server, capfd):
    return Place(tmp_path, server, capfd)


# --- plain transfers


def test_whole(place):
    result = place.ok()
    assert place.file.read_bytes() == BODY
    for part in "licence: its licence", "source: https://its.source", "sha256 as published":
        assert part in result.stderr
    assert "\x1b" not in result.stderr and "\r" not in result.stderr  # plain lines where nobody looks
    record = json.loads((place.root / "s" / "fetched.json").read_text())
    assert record["files"] == [
        {"name": "f", "bytes": len(BODY), "sha256": sha(BODY), "from": "f", "url": place.server.url + "/f"}
    ]
    # A second time asks nobody.
    place.server.requests.clear()
    assert "there already" in place.ok().stderr
    assert place.server.requests == []
    assert place.verify().returncode == 0


def test_a_bar_on_a_terminal(place):
    place.catalogue()
    place.server.plan["/f"] = ["slow"]
    controller, terminal = pty.openpty()
    run = subprocess.Popen([str(a) for a in place.command()], env=ENVIRONMENT, stdout=subprocess.DEVNULL,
                           stderr=terminal)  # fmt: skip
    os.close(terminal)
    seen = b""
    try:
        while chunk := os.read(controller, 65536):
            seen += chunk
    except OSError as error:
        assert error.errno == errno.EIO  # closed at the other end
    assert run.wait(30) == 0
    os.close(controller)
    assert re.search(rb"f \[#+\.+\] \d+/307  ", seen) and b"kB" in seen


@pytest.mark.parametrize("behaviour", ["half", "stall", "no length", 500, 503, 429])
def test_a_passing_failure_is_tried_again(place, behaviour):
    place.server.plan["/f"] = [behaviour]
    result = place.ok()
    assert place.file.read_bytes() == BODY
    assert "again in" in result.stderr
    assert len(place.server.requests) == 2
    if behaviour in ("half", "stall", "no length"):  # the rest, and only of the same version
        path, asked, version = place.server.requests[1]
        assert re.fullmatch(r"bytes=\d{6}-", asked) and version.startswith('"')


@pytest.mark.parametrize("behaviour", [404, 403, 410])
def test_a_lasting_failure_is_not(place, behaviour):
    place.server.plan["/f"] = [behaviour] * 9
    assert f"HTTP {behaviour}" in place.refused()
    assert len(place.server.requests) == 1
    assert place.parts() == []


def test_always_failing_ends(place):
    place.server.plan["/f"] = [500] * 99
    assert "HTTP 500" in place.refused()
    assert len(place.server.requests) == 3  # the first and two retries


def test_redirects_in_a_circle(place):
    place.server.plan["/f"] = [301] * 99
    assert "redirects more than 5 times" in place.refused()
    assert len(place.server.requests) == 6


def test_the_next_address_where_one_fails(place):
    place.server.files["/wrong"] = OTHER
    place.entry["urls"] = [place.server.url + p for p in ("/gone", "/wrong", "/f")]
    result = place.ok()
    assert "trying the next address" in result.stderr
    assert place.file.read_bytes() == BODY
    record = json.loads((place.root / "s" / "fetched.json").read_text())
    assert record["files"][0]["url"] == place.server.url + "/f"


def test_nobody_listens(place, unused_port):
    place.entry["urls"] = [f"http://127.0.0.1:{unused_port}/f"]
    line = place.refused()
    assert "--mirror" in line and str(unused_port) in line


# --- servers that are wrong


@pytest.mark.parametrize(
    ("second", "said"),
    [("wrong range", "sends another part"), ("range of another", "sends another part"),
     ("no range header", "does not say which part"), ("other bytes", "sha256 is"), ("no ranges", ""),
     (416, "no more of the file")],
)  # fmt: skip
def test_a_range_answered_wrongly(place, second, said):
    place.server.plan["/f"] = ["half", second]
    assert said in place.ok().stderr
    assert place.file.read_bytes() == BODY


@pytest.mark.parametrize("tags", ["strong", "weak", "none"])
def test_the_file_changes_between_two_parts(place, tags):
    """What was first fetched is of an old version: never joined with the new one."""
    server = place.server
    server.files["/f"] = OTHER
    server.tags["/f"] = {"strong": '"old"', "weak": 'W/"old"', "none": ""}[tags]

    def change():
        server.files["/f"] = BODY
        server.tags["/f"] = server.tags["/f"].replace("old", "new")
        return "honest"

    server.plan["/f"] = ["half", change]
    place.ok()
    assert place.file.read_bytes() == BODY


@pytest.mark.parametrize("tags", ["strong", "none"])
def test_a_change_is_noticed_without_any_checksum(place, tags):
    server = place.server
    server.files["/s/f"] = OTHER
    server.tags["/s/f"] = '"old"' if tags == "strong" else ""

    def change():
        server.files["/s/f"] = BODY
        if tags == "strong":
            server.tags["/s/f"] = '"new"'
        return "honest"

    server.plan["/s/f"] = ["half", change]
    place.catalogue({"name": "f", "urls": ["https://nowhere.invalid/f"]})
    place.ok("--mirror", server.url)
    assert place.file.read_bytes() == BODY
    if tags == "none":
        assert server.requests[1][1] is None  # nothing to compare with: the whole again


def test_a_server_that_ignores_if_range(place):
    """206 with the tag of another version."""
    server = place.server
    server.files["/s/f"] = OTHER

    server.plan["/s/f"] = ["half"]
    place.catalogue({"name": "f", "urls": ["https://nowhere.invalid/f"]})
    original = Handler.do_GET

    def no_if_range(self):
        if self.headers.get("If-Range"):
            server.files["/s/f"] = BODY
            del self.headers["If-Range"]
        original(self)

    Handler.do_GET = no_if_range
    try:
        result = place.ok("--mirror", server.url)
    finally:
        Handler.do_GET = original
    assert "has changed" in result.stderr
    assert place.file.read_bytes() == BODY


@pytest.mark.parametrize(
    ("behaviour", "part"),
    [("longer", "more than the 307200 bytes"), ("unasked range", "where the whole was asked for"),
     ("gzip encoding", "'gzip'")],
)  # fmt: skip
def test_answers_of_no_use(place, behaviour, part):
    place.server.plan["/f"] = [behaviour] * 9
    assert part in place.refused()
    assert len(place.server.requests) == 1


def test_wrong_bytes_never_get_the_name(place):
    place.server.files["/f"] = OTHER
    line = place.refused()
    assert f"sha256 is {sha(OTHER)}, expected {sha(BODY)}" in line
    assert place.parts() == [] and not list(place.root.rglob("f"))


def test_md5(place):
    del place.entry["sha256"]
    place.entry["md5"] = hashlib.md5(BODY).hexdigest()
    place.catalogue({**place.entry, "urls": ["https://nowhere.invalid/f"]})
    place.server.files["/s/f"] = BODY
    assert "md5 as published" in place.ok("--mirror", place.server.url).stderr
    assert "good" in place.verify().stdout


# --- killed and continued


def wait_for(condition, seconds=20):
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds
        time.sleep(0.01)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_killed_in_the_middle(place, sent, code):
    place.catalogue()
    place.server.plan["/f"] = ["slow"]
    part = place.root / "s" / "f.part"
    run = subprocess.Popen([str(a) for a in place.command()], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: part.exists() and part.stat().st_size > 50_000)
    run.send_signal(sent)
    _, error = run.communicate(timeout=20)
    assert run.returncode == code, error
    if code > 0:
        assert error.splitlines()[-1].endswith("the same command continues")
    assert not place.file.exists()
    size = part.stat().st_size
    assert 50_000 < size < len(BODY) and part.read_bytes() == BODY[:size]
    assert place.verify().returncode == 3 and "missing" in place.verify().stdout
    place.ok()
    assert place.file.read_bytes() == BODY
    assert place.server.requests[-1][1] == f"bytes={size}-" and place.server.requests[-1][2]


def test_killed_before_the_rename(place):
    place.file.parent.mkdir(parents=True)
    (place.root / "s" / "f.part").write_bytes(BODY)
    place.ok()
    assert place.file.read_bytes() == BODY and place.server.requests == []


@pytest.mark.parametrize("left", [OTHER[:1000], OTHER, BODY + b"x", b""])
def test_rubbish_in_the_part(place, left):
    place.file.parent.mkdir(parents=True)
    (place.root / "s" / "f.part").write_bytes(left)
    (place.root / "s" / "f.part.json").write_text('{"url": 7')
    place.ok()
    assert place.file.read_bytes() == BODY


def test_an_old_part_is_not_used_without_a_checksum(place):
    place.file.parent.mkdir(parents=True)
    (place.root / "s" / "f.part").write_bytes(OTHER[:1000])
    place.catalogue({"name": "f", "urls": ["https://nowhere.invalid/f"]})
    place.server.files["/s/f"] = BODY
    result = place.ok("--mirror", place.server.url)
    assert place.file.read_bytes() == BODY
    assert "not yet verified" in result.stderr and sha(BODY) in result.stderr
    # From now on it is held against what it was.
    assert "not yet verified" in place.verify().stdout and place.verify().returncode == 0
    place.file.write_bytes(OTHER)
    assert place.verify().returncode == 3
    assert place.get("--mirror", place.server.url).returncode == 3


def test_two_at_once(place):
    place.catalogue()
    place.server.plan["/f"] = ["slow"]
    run = subprocess.Popen([str(a) for a in place.command()], env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    wait_for(lambda: (place.root / "s" / "f.part").exists())
    second = place.get()
    assert second.returncode == 2 and "another process is fetching" in second.stderr
    assert run.wait(30) == 0 and place.file.read_bytes() == BODY


# --- what is there already


def test_a_wrong_file_is_kept_unless_forced(place):
    place.file.parent.mkdir(parents=True)
    place.file.write_bytes(b"mine")
    result = place.get()
    assert result.returncode == 3 and "--force" in result.stderr and place.file.read_bytes() == b"mine"
    place.ok("--force")
    assert place.file.read_bytes() == BODY


def test_verify_names_what_is_wrong(place):
    place.ok()
    damaged = bytearray(BODY)
    damaged[1000] ^= 1
    place.file.write_bytes(damaged)
    result = place.verify()
    assert result.returncode == 3
    assert result.stdout.startswith(f"BAD   {place.file}") and sha(damaged) in result.stdout
    assert "1 of 1 files" in result.stderr


def test_a_folder_that_cannot_be_written(place):
    place.root.write_text("a file")
    result = place.get()
    assert result.returncode == 3 and "--to" in result.stderr


# --- archives


def tarball(*members, mode="w:gz"):
    """Members are (name, bytes) or TarInfo."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member, io.BytesIO(b"x" * member.size))
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


GOOD = [("inner/a.bin", b"a" * 1000), ("inner/b.bin", b"b" * 500)]


@pytest.fixture
def archive(place):
    def serve(data, name="f.tar.gz", kind="tar", most=2000, entries=4):
        place.server.files["/f"] = data
        place.file = place.root / "s" / name
        place.catalogue({"name": name, "urls": [place.server.url + "/f"], "size": len(data), "sha256": sha(data),
                         "unpack": {"kind": kind, "bytes": most, "entries": entries}})  # fmt: skip
        return place

    return serve


def contents(place):
    folder = place.root / "s"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w"])
def test_unpacked(archive, mode):
    place = archive(tarball(special("./inner/", tarfile.DIRTYPE), *GOOD, mode=mode))
    place.ok()
    got = contents(place)
    assert set(got) == {"inner/a.bin", "inner/b.bin", "fetched.json"}  # the archive has gone
    assert got["inner/a.bin"] == b"a" * 1000
    assert place.verify().returncode == 0
    place.server.requests.clear()
    assert "there already" in place.ok().stderr and place.server.requests == []
    (place.root / "s" / "inner" / "a.bin").write_bytes(b"c" * 1000)
    assert place.verify().returncode == 3
    refused = place.get()
    assert refused.returncode == 3 and "inner/a.bin" in refused.stderr
    place.ok("--force")
    assert contents(place)["inner/a.bin"] == b"a" * 1000


def test_killed_while_it_was_unpacked(archive):
    """What an earlier process had unpacked and moved is there without a record."""
    place = archive(tarball(*GOOD))
    left = place.root / "s" / ".unpack.part" / "inner"
    left.mkdir(parents=True)
    (left / "b.bin").write_bytes(b"half")
    (place.root / "s" / "inner").mkdir()
    (place.root / "s" / "inner" / "a.bin").write_bytes(b"a" * 1000)
    place.ok()
    assert set(contents(place)) == {"inner/a.bin", "inner/b.bin", "fetched.json"}
    assert contents(place)["inner/b.bin"] == b"b" * 500


def test_other_files_of_yours_are_not_replaced(archive):
    place = archive(tarball(*GOOD))
    (place.root / "s" / "inner").mkdir(parents=True)
    (place.root / "s" / "inner" / "b.bin").write_bytes(b"mine")
    refused = place.get()
    assert refused.returncode == 3 and "inner/b.bin' is there" in refused.stderr
    assert set(contents(place)) == {"inner/b.bin", "f.tar.gz"}  # nothing of it came in
    assert contents(place)["inner/b.bin"] == b"mine"


def test_archives_are_kept_on_request(archive):
    place = archive(tarball(*GOOD))
    place.ok("--keep-archives")
    assert "f.tar.gz" in contents(place)


def test_zip_and_gzip(archive):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("inner/a.bin", b"a" * 1000)
    place = archive(out.getvalue(), "f.zip", "zip")
    place.ok()
    assert contents(place)["inner/a.bin"] == b"a" * 1000
    shutil.rmtree(place.root)
    place = archive(gzip.compress(b"z" * 1500), "text.csv.gz", "gzip")
    place.ok()
    assert contents(place)["text.csv"] == b"z" * 1500


def bomb():
    info = tarfile.TarInfo("inner/zeros")
    info.size = 60_000_000
    return tarball(info)


def lying_size():
    """The header says 10 bytes of a sparse file whose map reaches far out."""
    data = bytearray(tarball(("a", b"x" * 10), mode="w"))
    data[124:136] = b"77777777777\0"  # 8 GiB in octal
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


BAD = {
    "../": (tarball(("../out", b"x")), "leads out"),
    "inner ../": (tarball(GOOD[0], ("inner/../../out", b"x")), "leads out"),
    "absolute": (tarball(("/tmp/glyptic-out", b"x")), "leads out"),
    "backslash": (tarball(("..\\out", b"x")), "leads out"),
    "newline": (tarball(("a\nb", b"x")), "leads out"),
    "symlink": (tarball(special("inner", tarfile.SYMTYPE, "/tmp"), ("inner/out", b"x")), "is a link"),
    "symlink inside": (tarball(GOOD[0], special("inner/l", tarfile.SYMTYPE, "a.bin")), "is a link"),
    "hard link": (tarball(special("h", tarfile.LNKTYPE, "/etc/passwd")), "is a link"),
    "device": (tarball(special("d", tarfile.CHRTYPE)), "is a device"),
    "pipe": (tarball(special("p", tarfile.FIFOTYPE)), "is a device"),
    "twice": (tarball(("a", b"x"), ("a", b"y")), "twice"),
    "file and folder": (tarball(("a", b"x"), ("a/b", b"y")), "both a file and a folder"),
    "bomb": (bomb(), "more than the 2000 bytes"),
    "sum": (tarball(("a", b"x" * 1500), ("b", b"x" * 1500)), "more than the 2000 bytes"),
    "many": (tarball(*[(str(i), b"") for i in range(5)]), "more than the 4 entries"),
    "lying size": (lying_size(), "more than the 2000 bytes"),
    "truncated": (tarball(*GOOD)[:-30], ""),
    "no archive": (b"<html>not found</html>" * 100, ""),
    "empty": (tarball(), "holds no file"),
    "own name": (tarball(("fetched.json", b"{}")), "own name"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_archives_leave_nothing(archive, name):
    data, part = BAD[name]
    place = archive(data)
    result = place.get()
    assert result.returncode == 3, result.stderr
    line = result.stderr.splitlines()[-1]
    assert line.startswith("glyptic: ") and "f.tar.gz" in line and part in line
    assert set(contents(place)) <= {"f.tar.gz"}
    assert sorted(p.name for p in place.root.rglob("*")) == ["f.tar.gz", "s"]
    assert not pathlib.Path("/tmp/glyptic-out").exists() and not (place.root / "out").exists()


def test_a_gzip_bomb(archive):
    place = archive(gzip.compress(b"\0" * 50_000_000), "z.gz", "gzip")
    assert place.get().returncode == 3
    assert set(contents(place)) == {"z.gz"}


# --- the catalogue


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"name": "../f"}, "not a plain file name"),
        ({"name": "a/f"}, "not a plain file name"),
        ({"name": ".f"}, "not a plain file name"),
        ({"name": "f.part"}, "not a plain file name"),
        ({"name": "fetched.json"}, "Glyptic's own"),
        ({"sha256": "ab"}, "64 hexadecimal digits"),
        ({"md5": "0" * 32}, "give one checksum"),
        ({"urls": []}, "'urls'"),
        ({"urls": ["ftp://x/f"]}, "not an https address"),
        ({"urls": ["file:///etc/passwd"]}, "not an https address"),
        ({"size": -1}, "'size'"),
        ({"sizes": 1}, "did you mean 'size'"),
        ({"unpack": {"kind": "rar", "bytes": 1, "entries": 1}}, "must be tar, zip or gzip"),
        ({"unpack": {"kind": "tar", "entries": 1}}, "'bytes'"),
    ],
)
def test_bad_catalogues(place, change, part):
    place.catalogue({**place.entry, **change})
    line = place.refused()
    assert part in line and "catalogue.json'" in line
    assert not place.root.exists()


def test_http_needs_a_sha256(place):
    place.entry.pop("sha256")
    assert "needs a sha256" in place.refused()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"s": 1}', "[" * 5000, '{"a":1,"a":2}'])
def test_no_catalogues(place, text):
    (place.folder / "catalogue.json").write_text(text)
    assert "catalogue" in place.refused()


def test_list_and_names(capfd):
    result = Result(capfd, ["data", "list"])
    for name in "mnist (11.6 MB, 4 files, sha256)", "fashion_mnist", "cifar10 (170.1 MB", "planetoid_cora":
        assert name in result.stdout
    assert result.stdout.count("licence: ") >= 8
    result = Result(capfd, ["data", "get", "cifar_10"])
    assert result.returncode == 2 and "did you mean 'cifar10'" in result.stderr


def test_built_in_cifar_from_a_mirror_is_checked(server, tmp_path, capfd, monkeypatch):
    """The real catalogue: a mirror with other bytes is caught by the published checksum."""
    server.files["/cifar10/cifar-10-binary.tar.gz"] = tarball(*GOOD)
    monkeypatch.setenv("GLYPTIC_MIRROR", server.url + "/")
    result = Result(capfd, ["data", "get", "cifar10", "--to", tmp_path, "--retries", "0"])
    assert result.returncode == 3 and "of 170052171 bytes" in result.stderr
    assert [r[0] for r in server.requests] == ["/cifar10/cifar-10-binary.tar.gz"]


def test_a_config_runs_on_what_was_fetched(server, tmp_path):
    """Fetched into the default folder, found by the readers without a word in the config."""
    record = bytes([3]) + bytes(3072)
    data = tarball(*[(f"cifar-10-batches-bin/{n}.bin", record * 40)
                     for n in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")])  # fmt: skip
    server.files["/c"] = data
    catalogue = tmp_path / "c.json"
    catalogue.write_text(json.dumps({"cifar10": {
        "title": "t", "licence": "l", "source": "s", "use": "data.name=cifar10",
        "files": [{"name": "c.tar.gz", "urls": [server.url + "/c"], "size": len(data), "sha256": sha(data),
                   "unpack": {"kind": "tar", "bytes": 10**6, "entries": 10}}]}}))  # fmt: skip
    environment = {**ENVIRONMENT, "HOME": str(tmp_path), "XDG_DATA_HOME": ""}
    got = subprocess.run([str(GLYPTIC), "data", "get", "cifar10", "--catalogue", str(catalogue)], env=environment,
                         capture_output=True, text=True, check=False)  # fmt: skip
    assert got.returncode == 0, got.stderr
    assert got.stdout.endswith("use it with: --set data.name=cifar10\n"), got.stdout
    assert (tmp_path / ".local/share/glyptic/cifar10/cifar-10-batches-bin/test_batch.bin").exists()
    config = tmp_path / "c.yaml"
    config.write_text("threads: 1\ndata: {name: cifar10}\nmodel: {name: mlp, widths: [4]}\n"
                      "train: {epochs: 1, batch_size: 16}\nthroughput: {enabled: false}\n"
                      "sparsity: {method: static, density: 0.5}\n")  # fmt: skip
    run = subprocess.run([str(GLYPTIC), "run", str(config), "--out", str(tmp_path / "run")], env=environment,
                         capture_output=True, text=True, cwd=tmp_path, check=False)  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "200" in (tmp_path / "run" / "log.txt").read_text()

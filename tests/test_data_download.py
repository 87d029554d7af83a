"""Archives that are downloaded: whole, resumed, and refused if they are other ones."""

import errno
import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from official_archives import bird_files, write_tar

from convnext_ablation.cli.main import main
from convnext_ablation.data import archives
from convnext_ablation.data.archives import Published
from convnext_ablation.data.birds import CUB200
from convnext_ablation.errors import UserError

DATA = bytes(range(256)) * 20_000
DIGEST = hashlib.sha256(DATA).hexdigest()


class Home(ThreadingHTTPServer):
    """Serves one file, by ranges if `ranges`; the next `breaks` answers end in the middle."""

    def __init__(self, data):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.ranges, self.breaks, self.asked = data, True, 0, []
        self.announced = None  # a length that isn't true; "" for none
        self.endless = False  # whether it sends a byte at a time, and no end
        self.url = f"http://127.0.0.1:{self.server_port}/archive.tar"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        home = self.server
        asked = self.headers.get("Range")
        home.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and home.ranges else 0
        if "missing" in self.path:
            self.send_error(404)
            return
        if start >= len(home.data):
            self.send_error(416)
            return
        body = home.data[start:]
        self.send_response(206 if asked and home.ranges else 200)
        length = str(len(body)) if home.announced is None else home.announced
        if length:
            self.send_header("Content-Length", length)
        self.end_headers()
        while home.endless:
            try:
                self.wfile.write(b"x")
            except OSError:
                return
            time.sleep(0.01)
        if home.breaks:
            home.breaks -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def home():
    with Home(DATA) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def published(home, digest=DIGEST):
    return Published("archive.tar", home.url, digest)


def test_broken_download_resumes_where_it_broke(home, tmp_path):
    home.breaks = 1
    with pytest.raises(UserError, match="run the same command to resume"):
        published(home).download(tmp_path)
    assert published(home).download(tmp_path).read_bytes() == DATA
    assert home.asked == [None, f"bytes={len(DATA) // 2}-"]
    assert [path.name for path in tmp_path.iterdir()] == ["archive.tar"]


@pytest.mark.parametrize(
    ("part", "ranges", "asked"),
    [(DATA, True, [f"bytes={len(DATA)}-"]), (b"x", False, ["bytes=1-"])],
    ids=["complete", "home without ranges"],
)
def test_download_takes_up_what_is_there(home, tmp_path, part, ranges, asked):
    home.ranges = ranges
    (tmp_path / "archive.tar.part").write_bytes(part)
    assert published(home).download(tmp_path).read_bytes() == DATA
    assert home.asked == asked


def test_of_several_at_once_one_downloads_and_the_others_wait(home, tmp_path, capsys):
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(lambda _: published(home).download(tmp_path), range(3)))
    assert {path.read_bytes() for path in paths} == {DATA}
    assert home.asked == [None]
    assert [path.name for path in tmp_path.iterdir()] == ["archive.tar"]


def test_other_file_than_the_published_one_is_refused_and_removed(home, tmp_path):
    with pytest.raises(UserError, match=r"is not the published archive\.tar"):
        published(home, DIGEST[::-1]).download(tmp_path)
    assert not list(tmp_path.iterdir())


def test_missing_file_and_dead_home_are_one_line(home, tmp_path):
    with pytest.raises(UserError, match=r"missing/archive\.tar can't be downloaded \(HTTP Error 404"):
        Published("a.tar", home.url.replace("archive", "missing/archive"), DIGEST).download(tmp_path)
    with pytest.raises(UserError, match=r"can't be downloaded .*run the same command to resume"):
        Published("a.tar", "http://127.0.0.1:1/a.tar", DIGEST).download(tmp_path)


def test_command_downloads_what_is_not_named(home, tmp_path, monkeypatch, capsys):
    archive = write_tar(tmp_path / "birds.tgz", bird_files(), "w:gz")
    home.data = archive.read_bytes()
    mine = Published("CUB_200_2011.tgz", home.url, hashlib.sha256(home.data).hexdigest())
    monkeypatch.setattr(CUB200, "published", {"archive": mine})
    monkeypatch.chdir(tmp_path)
    words = ["prepare", "cub200", "out", "--download", "--val", "1", "--unofficial", "--size", "16"]
    assert main(words) == 0
    assert (tmp_path / "downloads" / "CUB_200_2011.tgz").read_bytes() == home.data
    assert "3 train, 2 val, 3 test" in capsys.readouterr().out
    assert main(words) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert home.asked == [None]


@pytest.mark.parametrize(
    ("endless", "announced", "limits", "message"),
    [
        (
            True,
            None,
            {"_SECONDS": 1},
            "less than 1024 bytes a second for 1 s.*run the same command to resume",
        ),
        (True, "", {"_MOST": 20}, "has more than 0 MiB, which is too much"),
        (False, "", {"_MOST": len(DATA) - 1}, "has more than 4 MiB, which is too much"),
        (False, str(10**18), {}, r"has more than [\d,]+ MiB, which is too much; make room"),
        (False, None, {"_MOST": len(DATA)}, ""),
        (False, "", {}, ""),
        (False, "nonsense", {}, ""),
        (False, "-5", {}, ""),
        (False, str(len(DATA) + 1), {}, "1 more expected.*run the same command to resume"),
    ],
)
def test_a_download_that_is_not_as_announced_ends(
    home, tmp_path, monkeypatch, endless, announced, limits, message
):
    home.endless, home.announced = endless, announced
    for name, value in limits.items():
        monkeypatch.setattr(archives, name, value)
    try:
        if not message:
            assert published(home).download(tmp_path).read_bytes() == DATA
            return
        with pytest.raises(UserError, match=message) as error:
            published(home).download(tmp_path)
    finally:
        home.endless = False
    assert str(error.value).isprintable()
    assert not (tmp_path / "archive.tar").exists()
    assert (tmp_path / "archive.tar.part").exists() == ("resume" in message)


def test_full_disk_is_one_line_and_keeps_what_was_had(home, tmp_path, monkeypatch):
    def full(url, part):
        part.write_bytes(DATA[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives, "_fetch", full)
    with pytest.raises(UserError, match=r"No space left on device\); run the same command to resume"):
        published(home).download(tmp_path)
    assert (tmp_path / "archive.tar.part").read_bytes() == DATA[:10]

"""Archives of one's own: tar and zip in any packing; sound ones are read, damaged ones refused."""

import bz2
import gzip
import io
import lzma
import multiprocessing
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from official_archives import jpeg, refused, write_folder, write_tar
from test_data_own import by_split, plain

from convnext_ablation.data.archives import open_source
from convnext_ablation.data.packed import find_pieces, list_archive
from convnext_ablation.data.prepare import prepare
from convnext_ablation.data.walk import Piece
from convnext_ablation.errors import UserError

FILES = plain(4)


def zstd(data):
    module = pytest.importorskip("backports.zstd")
    return module.compress(
        data, options={module.CompressionParameter.checksum_flag: 1}
    )  # as the program does


PACKED = {
    "zip": None,
    "gz": gzip.compress,
    "two streams": lambda data: gzip.compress(data[:5000]) + bytes(512) + gzip.compress(data[5000:]),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
}


def write_zip(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.mkdir("empty") if hasattr(archive, "mkdir") else None
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("kind", PACKED)
def test_archive_of_any_kind_gives_what_the_folder_gives(tmp_path, kind, capsys):
    path = tmp_path / "archive"  # without an ending
    if kind == "zip":
        write_zip(path, FILES)
    else:
        write_tar(path, FILES)
        path.write_bytes(PACKED[kind](path.read_bytes()))
    prepare("folder", tmp_path / "a", images=path, size=16)
    assert f"{path}: 8 files" in capsys.readouterr().out
    prepare("folder", tmp_path / "b", images=write_folder(tmp_path / "mine", FILES), size=16)
    assert by_split(tmp_path / "a") == by_split(tmp_path / "b")
    manifests = [(tmp_path / out / "manifest.csv").read_bytes() for out in "ab"]
    assert manifests[0] == manifests[1]


def link(name, target, kind=tarfile.LNKTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def test_hard_links_within_a_tar_are_their_files(tmp_path):
    images = write_folder(tmp_path / "mine", plain(3))
    os.link(images / "ash" / "0.jpg", images / "ash" / "copy.jpg")
    with tarfile.open(tmp_path / "hl.tar", "w") as archive:
        archive.add(images, ".")
    summary = prepare("folder", tmp_path / "out", images=tmp_path / "hl.tar", size=None)
    assert sum(summary.counts.values()) == 7
    [copy], [original] = ((tmp_path / "out").glob(f"*/ash/{name}.jpg") for name in ("copy", "0"))
    assert copy.read_bytes() == original.read_bytes() == plain(3)["ash/0.jpg"]


REFUSED = {
    "symbolic link": (link("ash/x.jpg", "0.jpg", tarfile.SYMTYPE), "is a link or a device; pack what it"),
    "hard link outside": (link("ash/x.jpg", "../../etc/passwd"), "is a link or a device"),
    "pipe": (link("ash/x.jpg", "", tarfile.FIFOTYPE), "is a link or a device"),
    "device": (link("ash/x.jpg", "", tarfile.CHRTYPE), "is a link or a device"),
    "twice": (link("ash/0.jpg", "", tarfile.REGTYPE), "appears twice"),
    "one name in two Unicode forms": ((tarfile.TarInfo("ash/e\u0301.jpg"), b""), "in two Unicode forms"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tar_with_what_no_folder_of_images_has_is_refused(tmp_path, case):
    extra, message = REFUSED[case]
    path = write_tar(tmp_path / "a.tar", {**FILES, "ash/\u00e9.jpg": b""}, extra=[extra])
    refused("folder", tmp_path, message, images=path)


def test_sparse_files_are_refused(tmp_path):
    if not shutil.which("tar"):
        pytest.skip("GNU tar is not here")
    with open(tmp_path / "0.jpg", "wb") as file:
        file.truncate(1 << 20)
    os.system(f"tar -C {tmp_path} --sparse -cf {tmp_path}/a.tar 0.jpg")
    with pytest.raises(UserError, match=r"'0\.jpg' is stored as a sparse file; pack it without --sparse"):
        find_pieces(tmp_path / "a.tar")


def headers(path):
    with tarfile.open(path) as archive:
        return [member.offset for member in archive]


@pytest.fixture(scope="module")
def tar(tmp_path_factory):
    files = {**FILES, f"ash/{'long' * 40}.jpg": jpeg(1), "ash/ü.jpg": jpeg(2)}  # with extended headers
    path = write_tar(tmp_path_factory.mktemp("tar") / "whole.tar", files)
    return path.read_bytes(), headers(path), set(files)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_flipped_bit_in_any_header_is_an_error_or_changes_nothing(tar, tmp_path_factory, data):
    whole, offsets, names = tar
    place = data.draw(st.sampled_from(offsets)) + data.draw(st.integers(0, 511))
    damaged = bytearray(whole)
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "flipped.tar"
    path.write_bytes(damaged)
    with suppress(UserError):
        # without an error it was in the checksum's own last bytes, which nothing reads
        assert set(find_pieces(path)) == names


@pytest.mark.parametrize("gap", [0, 100, 512])
def test_tar_cut_at_any_header_is_refused(tar, tmp_path, gap):
    whole, offsets, _ = tar
    for offset in [*offsets[1:], whole.rstrip(b"\0").__len__() // 512 * 512 + 512]:
        path = tmp_path / "cut.tar"
        path.write_bytes(whole[: offset + min(gap, 511)])
        with pytest.raises(UserError, match=r"cut short|damaged"):
            find_pieces(path)
    path.write_bytes(whole[: len(whole.rstrip(b"\0")) // 512 * 512 + 1024])  # one block of zeros is an end
    find_pieces(path)


def test_tar_within_a_file_and_what_is_no_tar(tar, tmp_path):
    whole, offsets, names = tar
    path = tmp_path / "outer"
    path.write_bytes(bytes(512) + whole + b"more")
    assert set(find_pieces(path, within=Piece(path, 512, len(whole)))) == names
    with pytest.raises(UserError, match="after 5 files the end of the tar is missing"):
        find_pieces(path, within=Piece(path, 512, offsets[5]))
    path.write_bytes(b"Rar!\x1a\x07\x01" + bytes(range(256)) * 8)
    with pytest.raises(UserError, match="another kind of archive: unpack it, and name the folder"):
        open_source(path, tmp_path / "scratch")


@pytest.mark.parametrize("more", [b"x", None])
def test_what_follows_the_end_of_a_tar_is_refused(tar, tmp_path, more):
    path = tmp_path / "two.tar"
    path.write_bytes(tar[0] + (tar[0] if more is None else more))
    with pytest.raises(UserError, match="after 10 files there is a damaged header, or another archive"):
        find_pieces(path)
    path.write_bytes(gzip.compress(tar[0]) + gzip.compress(path.read_bytes()))
    with pytest.raises(UserError, match="after 10 files there is"):
        open_source(path, tmp_path / "scratch")


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_damaged_packing_is_refused(tar, tmp_path, kind):
    whole = PACKED[kind](tar[0])
    cases = [whole[:share] for share in (6, len(whole) // 2, len(whole) - 1)]
    middle = len(whole) // 2
    cases += [whole + b"rest", whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]]
    for number, data in enumerate(cases):
        (tmp_path / f"{number}").write_bytes(data)
        with pytest.raises(UserError, match=r"can't be unzipped|damaged"):
            open_source(tmp_path / f"{number}", tmp_path / "scratch")


def test_names_of_a_zip_that_says_no_encoding_are_in_utf_8(tmp_path, capsys):
    zipped = write_zip(tmp_path / "a.zip", {"QQQQ/0.jpg": b""})
    zipped.write_bytes(zipped.read_bytes().replace(b"QQQQ", "äö".encode()))
    assert set(open_source(zipped, tmp_path)) == {"äö/0.jpg"}
    assert "read by code page 437" not in capsys.readouterr().out


def write_japanese(path, field=False):
    """A zip with two classes named in Shift-JIS, the second with a backslash, and perhaps in UTF-8, too."""
    classes = {"PP": "桜", "QQ": "表"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in FILES.items():
            info = zipfile.ZipInfo(name.replace("ash", "PP").replace("birch", "QQ"))
            named = info.filename.replace(info.filename[:2], classes[info.filename[:2]])
            for start in (b"\1else", b"\1" + zlib.crc32(named.encode("cp932")).to_bytes(4, "little")) * field:
                info.extra += struct.pack("<HH", 0x7075, len(start + named.encode())) + start + named.encode()
            archive.writestr(info, data)
    for stored, name in classes.items():
        path.write_bytes(path.read_bytes().replace(stored.encode(), name.encode("cp932")))
    return path


@pytest.mark.parametrize(
    ("encoding", "field", "found"),
    [("cp932", False, "桜表"), (None, True, "桜表"), ("cp1252", True, "桜表"), (None, False, ["ì≈", "ò"])],
)
def test_names_of_a_zip_are_in_the_encoding_that_is_given_or_in_utf_8_beside(
    tmp_path, capsys, encoding, field, found
):
    source = open_source(write_japanese(tmp_path / "a.zip", field), tmp_path, encoding=encoding)
    assert {name.split("/")[0] for name in source} == set(found)
    assert len(source) == 8
    said = "8 names are read by code page 437, such as '\\xec\\u2248/0.jpg'; if that is wrong, give --names-"
    assert (said in capsys.readouterr().out) == (found != "桜表")


def test_names_of_a_tar_are_in_the_encoding_that_is_given(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="cp932") as archive:
        archive.addfile(tarfile.TarInfo("桜/0.jpg"))
    assert set(open_source(tmp_path / "a.tar", tmp_path, encoding="cp932")) == {"桜/0.jpg"}


@pytest.mark.parametrize(("encoding", "reason"), [("cp9999", "unknown encoding"), ("utf-8", "can't decode")])
def test_other_encoding_than_that_of_a_zip_is_refused(tmp_path, encoding, reason):
    path = write_japanese(tmp_path / "a.zip")
    message = f"--names-encoding {encoding}: .*{reason}"
    refused("folder", tmp_path, message, images=path, names_encoding=encoding)


def test_damaged_encrypted_and_hostile_zips_are_refused(tmp_path):
    whole = write_zip(tmp_path / "whole.zip", FILES, zipfile.ZIP_STORED).read_bytes()
    path = tmp_path / "a.zip"
    path.write_bytes(whole[:-30])
    refused("folder", tmp_path, "can't be read as a zip", images=path)
    at = whole.index(FILES["ash/0.jpg"]) + 200
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(UserError, match=r"ash/0\.jpg' can't be read; get the archive again \(Bad CRC-32"):
        prepare("folder", tmp_path / "out", images=path)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        local = archive.getinfo("ash/1.jpg").header_offset
    path.write_bytes(whole[: local + 30] + b"x" + whole[local + 31 :])  # one of a file's two names
    refused("folder", tmp_path, r"'ash/1\.jpg' can't be read \(File name in directory", images=path)
    locked = bytearray(whole)
    locked[whole.rindex(b"PK\1\2") + 8] |= 1
    path.write_bytes(locked)
    refused("folder", tmp_path, r"'birch/3\.jpg' is encrypted; unpack it, and name the folder", images=path)
    write_zip(path, {**FILES, "../x.jpg": b""})
    refused("folder", tmp_path, r"'\.\./x\.jpg' leads out of the archive", images=path)
    write_zip(path, {"zeros": bytes(100 << 20)})
    refused("folder", tmp_path, "unzips to more than 8 times its size", images=path)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # where there are threads
def test_each_process_reads_a_zip_at_its_own_place(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("first", "last"):
            archive.writestr(name, name * 9000)
    pieces = list_archive(tmp_path / "a.zip", tmp_path)
    assert pieces["first"].read() == b"first" * 9000
    here = pieces["first"].archive.file.fp.tell()
    other = multiprocessing.get_context("fork").Process(target=pieces["last"].read)
    other.start()
    other.join()
    assert (other.exitcode, pieces["first"].archive.file.fp.tell()) == (0, here)
    assert pickle.loads(pickle.dumps(pieces["last"])).read() == b"last" * 9000  # as for a spawned one

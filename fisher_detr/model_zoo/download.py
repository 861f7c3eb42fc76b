"""Fetching a published file: over https, with progress, resumed where it stopped, believed by its sha256."""

import http.client
import logging
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from iopath.common.file_io import file_lock
from tqdm import tqdm

from fisher_detr.files import sha256_of

logger = logging.getLogger(__name__)

SCHEMES = ("https",)  # of an address, and of every one it leads to
TIMEOUT = 30  # seconds without an answer
_BLOCK = 2**20  # bytes


def fetch(url: str, path: str | os.PathLike, sha256: str) -> Path:
    """Fetch a file, unless it is there; several processes may ask for it at once.

    What a fetch that was cut off has left in `<path>.part` is not fetched again.

    Args:
        url: https address.
        path: where the file goes.
        sha256: of the file, 64 hexadecimal digits.

    Returns:
        `path`.

    Raises:
        ValueError: the address is not https, or what lies there is another file than the one expected.
        OSError: no network, no such file there, or the connection ended early.
    """
    path = Path(path)
    with file_lock(str(path)):
        if path.is_file() and sha256_of(path) == sha256:
            return path
        part = path.with_name(f"{path.name}.part")
        resumed = part.is_file()
        found = _complete(url, part)
        if found != sha256 and resumed:
            logger.warning("What was left of an earlier fetch of %s is damaged: fetching all of it", url)
            part.unlink()
            found = _complete(url, part)
        if found != sha256:
            part.unlink()
            raise ValueError(
                f"{url} has sha256 {found}, {sha256} was published: it is another file now, "
                "and was not kept; ask its publisher"
            )
        os.replace(part, path)
    return path


def _complete(url: str, part: Path) -> str:
    """Fetch what is missing of a file; returns its sha256."""
    _check_scheme(url)
    logger.info("Fetching %s", url)
    try:
        _append(url, part)
    except urllib.error.HTTPError as error:
        raise OSError(f"cannot fetch {url}: the server answers {error.code} {error.reason}") from None
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error
        raise OSError(
            f"cannot fetch {url} ({reason}): check the network and try again, what has arrived is kept"
        ) from None
    return sha256_of(part)


def _append(url: str, part: Path) -> None:
    start = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    opener = urllib.request.build_opener(_CheckedRedirects)
    try:
        response = opener.open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return  # all of it is here: its sha256 will tell
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT or _first_byte(response) != start:
            start = 0  # the server sends the whole file
        total = (
            start + int(response.headers["Content-Length"]) if response.headers["Content-Length"] else None
        )
        done = _copy(response, part, start, total)
    if total is not None and done != total:
        raise ConnectionError(f"the connection ended after {done:,} of {total:,} bytes")


def _copy(response: http.client.HTTPResponse, part: Path, start: int, total: int | None) -> int:
    """Write an answer behind the first `start` bytes of a file; returns the bytes that are there now."""
    title = part.name.removesuffix(".part")
    with (
        open(part, "r+b" if start else "wb") as file,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=title) as progress,
    ):
        file.seek(start)
        file.truncate()
        while block := response.read1(_BLOCK):
            file.write(block)
            progress.update(len(block))
        return file.tell()


def _first_byte(response: http.client.HTTPResponse) -> int | None:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _check_scheme(url: str) -> None:
    if (scheme := urlsplit(url).scheme) not in SCHEMES:
        raise ValueError(f"{url} is an address of {scheme or 'no kind'}: models are fetched over https")


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """An https address may not lead to another kind."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

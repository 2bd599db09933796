"""`crosstalk serve` as strangers meet it: what it takes, what it refuses, and what is left behind, which is nothing."""

import signal
from contextlib import ExitStack
from pathlib import Path

import av
import numpy as np
import pytest

from datasets.media import encode, read_frames
from engine.settings import load_exactly
from evaluation.serve.settings import ServeSettings
from evaluation.serve.site import Guard, name_of
from tests.browser import browser, needs_chromium
from tests.evaluation.serving import Server, named, until
from tests.evaluation.small import small_detector


@pytest.fixture(scope="module")
def face(corpus) -> Path:
    videos = corpus / "faceforensics" / "original_sequences" / "youtube" / "c23" / "videos"
    return sorted(videos.glob("*.mp4"))[0]


@pytest.fixture(scope="module")
def talk(face, tmp_path_factory) -> Path:
    """Some seconds of it: forwards, backwards and forwards again."""
    frames = [frame.rgb() for frame in read_frames(face)]
    path = tmp_path_factory.mktemp("talk") / "talk.mp4"
    encode(path, [*frames, *frames[::-1], *frames])
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("serve")
    running = Server(root / "tmp", f"model={small_detector(root / 'bundle', generated=False)}", "max_megabytes=1",
                     "max_minutes=1", "max_waiting=2")  # fmt: skip
    yield running
    running.process.kill()


def test_every_answer_says_what_may_be_done_with_it(server):
    for path, status in (("/", 200), ("/nowhere", 404), ("/videos/x/report", 404), ("/videos/x/progress", 404)):
        code, headers, body = server.ask("GET", path)
        assert code == status and b"Traceback" not in body
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"] and headers["server"] is None
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/videos", "/videos/", "/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/videos/..",
                                  "/videos/..%2f..%2fetc%2fpasswd/report", "/serve/page.js", "/static/"])  # fmt: skip
def test_there_is_nothing_to_look_through(server, path):
    assert server.ask("GET", path)[0] in (404, 405)


@pytest.mark.parametrize(("headers", "status"), [
    ({"Host": "evil.example"}, 421), ({"Host": "evil.example:80"}, 421), ({"Host": "127.0.0.1.evil.example"}, 421),
    ({"Host": "localhost:1x"}, 421), ({"Host": ""}, 421), ({"Host": "LOCALHOST"}, 200), ({"Host": "[::1]:8000"}, 200),
])
def test_names_that_are_not_ours_are_refused(server, headers, status):
    """A foreign page can have its own name point at 127.0.0.1; it cannot choose an address."""
    assert server.ask("GET", "/", **headers)[0] == status


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Origin": "null"},
                                     {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"},
                                     {"Origin": "http://127.0.0.1:1"}])  # fmt: skip
def test_requests_of_other_pages_are_refused(server, headers):
    assert server.ask("POST", "/videos", b"x", **headers)[0] == 403
    assert server.ask("DELETE", "/videos/x", **headers)[0] == 403
    assert server.kept == []


def test_too_large_a_file_is_refused_by_what_it_says_and_by_what_it_is(server):
    assert server.ask("POST", "/videos", None, Content_Length="1000001")[0] == 413
    status, _, body = server.ask("POST", "/videos", iter([b"x" * 400_000] * 3))
    assert (status, body) == (413, b"larger than 1 MB") and server.kept == []


@pytest.mark.parametrize(("content", "reason"), [
    (b"<html>404 not found</html>" * 50, "not a readable video file"),
    (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "not a readable video file"),
])
def test_what_is_no_video_is_refused_with_the_reason(server, tmp_path, content, reason):
    (tmp_path / "a.mp4").write_bytes(content)
    last = server.outcome(server.send(tmp_path / "a.mp4"))
    assert last["state"] == "refused" and reason in last["reason"] and server.kept == []
    assert server.ask("POST", "/videos", b"")[::2] == (400, b"empty file")


@pytest.mark.parametrize("name", ["says.mp4", "silent.h264"])
def test_too_long_a_video_is_refused_whether_or_not_it_says_so(server, tmp_path, name):
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(1510):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    last = server.outcome(server.send(tmp_path / name))
    assert last == {"state": "refused", "reason": "it is longer than 1 minutes"} and server.kept == []


def test_a_sender_who_goes_away_leaves_nothing_and_blocks_nobody(server):
    sending = [server.begin_upload(), server.begin_upload()]
    until(lambda: len(server.kept) == 2)
    assert server.ask("POST", "/videos", b"x")[0] == 503, "two may wait"
    for one in sending:
        one.close()
    until(lambda: not server.kept and not any(server.folder.glob("*/*")))
    assert server.ask("POST", "/videos", b"")[0] == 400, "there is room again"


def test_two_at_once_wait_for_each_other(server, face):
    with ExitStack() as pages:
        with server.paused():
            first, second = server.send(face, "first.mp4"), server.send(face, "second.mp4")
            of_first, of_second = (pages.enter_context(server.listening(number)) for number in (first, second))
            assert next(of_first)["state"] in ("waiting", "judging")
            assert next(of_second) == {"state": "waiting", "ahead": 1}
        assert [list(told)[-1]["state"] for told in (of_first, of_second)] == ["done", "done"]
    status, headers, report = server.ask("GET", f"/videos/{second}/report")
    assert status == 200 and b"second.mp4" in report and b"first.mp4" not in report
    assert headers["content-security-policy"] == "sandbox allow-scripts; frame-ancestors 'self'"
    assert {path.name for path in server.kept} == {"report.html"}, "uploads are gone"
    assert server.ask("DELETE", f"/videos/{first}")[0] == server.ask("DELETE", f"/videos/{second}")[0] == 204
    assert server.kept == [] and server.ask("GET", f"/videos/{first}/report")[0] == 404


def test_a_closed_page_and_a_cancelled_video_end_the_judging(server, face):
    with server.paused():
        closed = server.send(face)
        with server.listening(closed) as told:
            until(lambda: next(told)["state"] == "judging")
        until(lambda: not server.kept)
        assert server.ask("GET", f"/videos/{closed}/progress")[0] == 404
    last = server.outcome(server.send(face, "next.mp4"))
    assert last["state"] == "done", "by a new process"
    with server.paused():
        cancelled = server.send(face)
        assert server.ask("DELETE", f"/videos/{cancelled}")[0] == 204
        until(lambda: all(path.name == "report.html" for path in server.kept))


def test_names_are_for_people_to_read_and_never_paths():
    assert name_of("..%2F..%2Fetc%2Fpasswd") == "passwd" and name_of("C:%5Cvideos%5Ca.mp4") == "a.mp4"
    assert name_of("a%0Ab%00c%E2%80%AEd.mp4") == "a\N{REPLACEMENT CHARACTER}b" + "\N{REPLACEMENT CHARACTER}c" \
        + "\N{REPLACEMENT CHARACTER}d.mp4"  # fmt: skip
    assert name_of("") == name_of("%2F") == "video" and len(name_of("x" * 5000)) == 200
    assert name_of("%FF%FE.mp4") == "\N{REPLACEMENT CHARACTER}" * 2 + ".mp4"


@pytest.mark.parametrize(("settings", "words"), [
    ((), "model=BUNDLE is missing"), (("model=x", "port=99999"), "expected 0 to 65535"),
    (("model=x", "max_minutes=0"), "expected a whole number from 1"),
])
def test_wrong_settings_are_one_line(settings, words):
    from engine.errors import UserError

    with pytest.raises(UserError, match=words):
        load_exactly("serve", settings, ServeSettings)


def test_further_names_are_taken_from_the_settings():
    guard = Guard(None, ("Analysis.example.org",))
    assert guard._ours("analysis.example.org:8000") and guard._ours("10.0.0.7") and not guard._ours("example.org")


# ---------------------------------------------------------------------------------------------- as a person sees it

@pytest.fixture
def page(server):
    """The page in a browser that notes every word it says of a video, and whether anything foreign ran."""
    with browser() as opened:
        opened.open(server.address)
        opened.value("""{ window.said = []; new MutationObserver(() => document.querySelectorAll('.says').forEach(
            (one) => said.push(one.textContent))).observe(document.getElementById('videos'),
            {subtree: true, childList: true, characterData: true}) }""")  # fmt: skip
        yield opened
        assert opened.value("window.ran") is None and opened.dialogs == []
        asked = [url for url in opened.requests if not url.startswith(("data:", f"{server.address}/"))]
        assert asked == [], "nothing comes from elsewhere"


SCRIPT = "<script>window.ran = 1; alert(1)</script>"
HOSTILE = f"<img src=x onerror=window.ran=2;alert(2)>\"'&\n\x7f\u202e{{{{ 7 * 7 }}}}{SCRIPT}.mp4".replace("/", "\\")
UNSEEN = dict.fromkeys(map(ord, "\n\x7f\u202e"), "\N{REPLACEMENT CHARACTER}")  # what turns or ends a line


@needs_chromium
def test_a_file_is_chosen_its_progress_seen_its_report_shown_and_clicked(server, page, talk, tmp_path):
    """Of a file whose name and metadata want to be run."""
    video = named(talk, tmp_path / HOSTILE, title=SCRIPT, comment=f"\"><img src=x onerror=window.ran=3>{SCRIPT}")
    page.choose("#file", video)
    page.until("document.querySelector('#videos li button[aria-pressed]')")
    said = page.value("said")
    for words in ("looking at faces", "drawing the report, "):
        assert any(one.startswith(words) for one in said), said
    assert page.value("document.querySelector('#videos .name').textContent") == HOSTILE.translate(UNSEEN)
    verdict = page.value("document.querySelector('#videos .says').textContent")
    frame = page.frame()
    assert page.value("document.querySelector('h1').textContent", frame) == verdict
    shown = page.value("document.querySelector('p.name').textContent", frame)
    assert shown == "Crosstalk on " + HOSTILE.translate(UNSEEN).rsplit("\\", 1)[-1]

    bars = page.value("[...document.querySelectorAll('rect[data-start]')].map((one) => ({...one.dataset}))", frame)
    assert len(bars) >= 3 and sum("first" in bar for bar in bars) == 1
    of_viewer, of_moment = (f"[...document.querySelectorAll('{place} img')].map((one) => one.src)"
                            for place in (".viewer", "#moment-1-{}"))  # fmt: skip

    def is_shown(bar: dict) -> None:
        """Its words, its two pictures, and the slider where it is."""
        assert page.value("document.querySelector('.viewer p').textContent", frame) == bar["says"]
        assert page.value(of_viewer, frame) == page.value(of_moment.format(bar["start"]), frame)
        page.until("[...document.querySelectorAll('.viewer img')].every((one) => one.naturalWidth > 100)", frame)
        assert page.value("document.querySelector('rect.chosen').dataset.start", frame) == bar["start"]
        slider = page.value("[+document.querySelector('input').value, document.querySelector('input').ariaValueText]",
                            frame)  # fmt: skip
        assert slider == [bars.index(bar), bar["says"]]

    is_shown(next(bar for bar in bars if "first" in bar))
    pictures = set()
    for bar in bars:
        page.click(f"rect[data-start='{bar['start']}']", frame)
        is_shown(bar)
        pictures.add(tuple(page.value(of_viewer, frame)))
    assert len(pictures) == len(bars), "each bar has pictures of its own"
    page.press("ArrowLeft", 37)  # the click has put the focus on the slider
    is_shown(bars[-2])
    page.press("Home", 36)
    is_shown(bars[0])
    page.click(".timeline input", frame)  # on the middle of the slider
    middle = page.value("+document.querySelector('input').value", frame)
    assert 0 < middle < len(bars) - 1
    is_shown(bars[middle])


@needs_chromium
def test_files_are_dropped_wait_for_each_other_are_cancelled_and_refused(server, page, talk, tmp_path):
    """Whatever they are called: names and reasons are words of the page, not parts of it."""
    names = [HOSTILE, "\"><script>window.ran = 4<\\script>.mp4", "'><svg onload=window.ran=5>.mp4", "%3Cb%3E%00.mp4"]
    for name in names:
        (tmp_path / name).write_text("no video")
    for several in (2, 4):
        page.drop("body", *(tmp_path / name for name in names[several - 2 : several]))
        page.until(f"document.querySelectorAll('#videos .failed').length === {several}")
    rows = "[...document.querySelectorAll('#videos li')].map((one) => one.querySelector('{}').textContent)"
    assert page.value(rows.format(".name")) == [name.translate(UNSEEN) for name in reversed(names)]
    assert all(said.startswith("Not judged: not a readable video file") for said in page.value(rows.format(".says")))
    assert page.value("document.querySelectorAll('#videos :is(script, img, svg, b)').length") == 0

    (tmp_path / "large.mp4").write_bytes(bytes(1_000_001))
    with server.paused():
        second = tmp_path / "second.mp4"
        second.write_bytes(talk.read_bytes())
        page.choose("#file", talk, second, tmp_path / "large.mp4")
        page.until("document.querySelector('#videos').innerText.includes('waiting, one video is before it')")
        assert page.value(rows.format(".says"))[0] == "Not taken: larger than 1 MB."
        page.click("[aria-label='Cancel second.mp4']")
        page.until("document.querySelector('#videos').innerText.includes('Cancelled.')")
    page.until("document.querySelector('#videos li button[aria-pressed]')")
    until(lambda: [path.name for path in server.kept if path.name == "video"] == [])


@needs_chromium
def test_what_gets_into_the_page_would_not_run_either(server, page):
    """Were a name ever to become a part of it: the policy refuses all but the page's own script."""
    page.value("document.querySelector('#videos').innerHTML += '<img src=x onerror=\"window.ran = 1\">'")
    page.value("{ const one = document.createElement('script'); one.textContent = 'window.ran = 2'; "
               "document.body.append(one) }")  # fmt: skip
    page.until("true")
    assert any("Content Security Policy" in error for error in page.errors)


@needs_chromium
def test_a_report_runs_nothing_foreign_and_fits_a_phone(tmp_path):
    """From the disk, with a hostile word wherever there can be one."""
    from evaluation.detector import Detector
    from evaluation.verdict import report
    from tests.evaluation.judgements import agreeing, judgement, moment, person

    hostile = "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)>"
    bundle = small_detector(tmp_path / "bundle", trained_on={"datasets": [hostile]}, methods=[hostile])
    (bundle / "card.md").write_text(hostile)
    found = judgement(hostile.replace("/", "\\"), (person(), person(2, reason=hostile, verdict="cannot tell")),
                      notes=(hostile,), agreement=agreeing())  # fmt: skip
    report.write(tmp_path / "r.html", found, Detector.load(bundle), [moment(), moment(25)], hostile)
    with browser() as page:
        page.open(f"file://{tmp_path / 'r.html'}")
        page.value("document.querySelectorAll('details').forEach((one) => one.open = true)")
        page.value("{ const one = document.createElement('script'); one.textContent = 'window.ran = 1'; "
                   "document.body.append(one) }")  # fmt: skip
        assert page.value("window.ran") is None and page.dialogs == []
        assert [url for url in page.requests if not url.startswith(("data:", "file:"))] == []
        for width in (360, 1100):
            page.screenshot(tmp_path / f"{width}.png", width)
            assert page.value("document.documentElement.scrollWidth") <= width, "nothing hangs out"
        page.screenshot(tmp_path / "360.png", 360)
        page.open(f"file://{tmp_path / 'r.html'}")
        left, right = page.value("""["left", "right"].map((side) => document.querySelector(".chosen")
            .getBoundingClientRect()[side])""")  # fmt: skip
        assert 0 <= left < right <= 360, "the last bar is the worst: its timeline is moved so far"


# ---------------------------------------------------------------------------------------------- the end

def test_ctrl_c_ends_at_once_and_leaves_nothing(server, face):
    """With one video being judged, one waiting and one half sent. The last test: there is no server after it."""
    with server.paused(), server.listening(server.send(face)) as told:
        assert next(told)["state"] in ("waiting", "judging")
        server.send(face)
        sending = server.begin_upload()
        until(lambda: sum(path.name == "video" for path in server.kept) == 3)
        assert server.end(signal.SIGINT) == "ended; uploads and reports are deleted\n"
        sending.close()
    assert server.process.returncode == 0 and list(server.folder.iterdir()) == []
    assert server.errors == ""

"""The page of an explanation: nothing but itself, whatever names hold, and in a browser each region where it lies."""

from __future__ import annotations

import base64
import html
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import toys
from pages import Reader

from pixdex._heat import coloured, heat_map
from pixdex.encoders.images import decode
from pixdex.explaining import Explanation, Side

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


def places(rows: int, columns: int) -> np.ndarray:
    y, x = np.divmod(np.arange(rows * columns), columns)
    count = len(x)
    return np.stack([x / columns, y / rows, np.full(count, 1 / columns), np.full(count, 1 / rows)], axis=1).astype(
        np.float32
    )


def explanation(**other: Any) -> Explanation:
    """Of a wide query and a tall hit: its token 3 lies on the hit's 0, 1 on 5, and 0 on 2."""
    looks = np.zeros((4, 6), np.float32)
    looks[3, 0], looks[1, 5], looks[0, 2] = 0.9, 0.6, 0.3
    query = Side(
        label="/a/query.jpg",
        evidence=np.array([0, 0.1, -0.2, 0.4], np.float32),
        places=places(2, 2),
        picture=toys.pixels(1, (90, 160)),
    )
    hit = Side(
        label="in/hit.jpg",
        evidence=np.array([0.5, 0, 0, 0, 0, 0.25], np.float32),
        places=places(3, 2),
        picture=toys.pixels(2, (180, 120)),
    )
    made = Explanation(
        id="in/hit.jpg",
        reranker="transport",
        score=2.5,
        first=0.75,
        correspondences=looks,
        matched_by="transport",
        query=query,
        hit=hit,
    )
    return replace(made, **other)


def test_a_page_shows_pictures_pairs_and_scores() -> None:
    read = Reader(explanation().to_html())
    pictures = {str(each["id"]): str(each["href"]) for each in read.all("image")}
    assert set(pictures) == {"query", "query-heat", "hit", "hit-heat"}  # once each, however often they are drawn
    shape = decode(base64.b64decode(pictures["hit"].partition(",")[2])).pixels.shape
    assert shape == (180, 120, 3)
    assert len(read.all("g", "pair")) == 2 * 3  # beside each other, and one above the other
    assert len(read.all("li", "c1") + read.all("li", "c2") + read.all("li", "c3")) == 3
    text = " ".join(read.words)
    for expected in ("Why in/hit.jpg was found", "+2.500", "+0.750", "0.900", "0.600", "0.300", "/a/query.jpg"):
        assert expected in text


def test_a_page_needs_nothing_but_itself() -> None:
    text = explanation().to_html()
    outside = re.sub(r"data:image/(jpeg|png);base64,[A-Za-z0-9+/=]*", "", text)
    for reference in ("http:", "https:", "file:", "@import", "url(", "<script", "<link", "srcset"):
        assert reference not in outside
    links = [str(attributes["href"]) for _, attributes in Reader(text).elements if "href" in attributes]
    ids = {attributes["id"] for _, attributes in Reader(text).elements if "id" in attributes}
    assert all(link.startswith("data:image/") or link[1:] in ids for link in links)


def test_pages_stay_small() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (960, 960, 3), dtype=np.uint8)  # nothing compresses worse
    sides = explanation().query, explanation().hit
    query, hit = (replace(side, picture=noise) for side in sides)
    assert len(explanation(query=query, hit=hit).to_html()) < 2_500_000


@pytest.mark.parametrize("name", ['<script>alert("x")</script>', '"><img src=x onerror=alert(1)>', "a' onload='x"])
def test_hostile_names_are_only_text(name: str) -> None:
    query, hit = (replace(side, label=name) for side in (explanation().query, explanation().hit))
    made = explanation(id=name, reranker=name, matched_by=name, query=query, hit=hit, notices=(name,))
    read = Reader(made.to_html())
    assert {tag for tag, _ in read.elements} == {
        tag for tag, _ in Reader(explanation(notices=("n",)).to_html()).elements
    }
    assert not [key for _, attributes in read.elements for key in attributes if key.startswith("on")]
    assert any(name in words for words in read.words)


def test_it_can_be_read_without_seeing() -> None:
    """Pictures and pairs have names, pairs and the switch can be reached by keys, and hidden copies don't speak."""
    read = Reader(explanation().to_html())
    assert ("html", {"lang": "en"}) in read.elements
    for pair in read.all("g", "pair"):
        assert pair["tabindex"] == "0"
        assert re.match(r"\d\. [a-z ]+ of the query, [a-z ]+ of the picture found: 0\.\d{3}$", str(pair["aria-label"]))
    assert {str(each.get("aria-label")) for each in read.all("g")} >= {"Query: /a/query.jpg", "Found: in/hit.jpg"}
    labels = {each["for"] for each in read.all("label")}
    assert {each["id"] for each in read.all("input")} == labels == {"lines", "heat"}
    assert all("aria-label" in each or "aria-hidden" in each for each in read.all("svg"))


def test_without_places_the_page_says_so() -> None:
    """And shows the pictures, and the pairs by number; without a picture an empty frame."""
    query = replace(explanation().query, places=None)
    hit = replace(explanation().hit, places=None, picture=None)
    made = explanation(query=query, hit=hit, notices=("where the regions lie is not known",))
    read = Reader(made.to_html())
    assert [each["id"] for each in read.all("image")] == ["query"]
    assert read.all("g", "pair") == read.all("input") == []
    text = " ".join(read.words)
    for expected in ("where the regions lie is not known", "no picture", "token 3", "0.900"):
        assert expected in text


def test_where_nothing_corresponds_the_page_says_so() -> None:
    read = Reader(explanation(correspondences=np.zeros((4, 6), np.float32)).to_html())
    assert "No region corresponds to another" in read.words
    assert read.all("li") == []


def test_heat_lies_where_the_evidence_is() -> None:
    evidence = np.array([0.5, 0, 0, 0, 0, 0.25], np.float32)
    heat = heat_map(places(3, 2), evidence, (96, 64))
    assert heat.shape == (96, 64)
    assert heat.max() == 1
    assert heat.min() >= 0
    cells = heat.reshape(3, 32, 2, 32)[:, 8:24, :, 8:24].mean(axis=(1, 3))  # within each, off its soft edges
    assert cells == pytest.approx(np.array([[1, 0], [0, 0], [0, 0.5]]), abs=0.02)
    assert heat_map(places(3, 2), -evidence, (9, 9)).max() == 0


def test_heat_of_places_that_are_not_known_is_left_out() -> None:
    some = places(1, 2)
    some[0] = np.nan
    heat = heat_map(some, np.array([9, 1], np.float32), (8, 16))
    assert heat[:, :6].max() == 0
    assert heat[:, 10:].min() == 1


def test_what_is_hot_can_be_seen_through() -> None:
    colours = coloured(np.linspace(0, 1, 5, dtype=np.float32)[None])
    assert colours.shape == (1, 5, 4)
    assert (np.diff(colours[0, :, 3].astype(int)) < 0).all()
    assert (np.diff(colours[0, :, 0].astype(int)) > 0).all()


# --- in a browser --------------------------------------------------------------------------------------------------

MEASURE = """
<script>
const box = e => { const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; };
const shown = document.querySelectorAll('.stage')[getComputedStyle(document.querySelector('.wide')).display == 'none' ? 1 : 0];
const seen = s => [...document.querySelectorAll(s)].some(e => e.getClientRects().length > 0);
const found = () => ({
  stage: shown.className, width: document.documentElement.scrollWidth, window: innerWidth,
  pictures: [...shown.querySelectorAll(':scope > svg > g[role=img] > use')].map(box),
  pairs: [...shown.querySelectorAll('.pair')].map(p => [...p.querySelectorAll('.box')].map(box)),
  lines: seen('.stage .pair'), heat: seen('.stage .heat use'),
  dim: [...shown.querySelectorAll('.pair')].map(p => +getComputedStyle(p).opacity),
  paper: getComputedStyle(document.documentElement).colorScheme,
});
const first = found();
document.getElementById('heat').click();
const warm = found();
document.getElementById('lines').click();
let tries = 0;
const end = () => {
  shown.querySelector('.p2').focus();
  const focused = found();
  if (focused.dim[0] == 1 && ++tries < 40) return setTimeout(end, 50);  // a window has the focus a moment after it is there
  document.body.innerHTML = '';
  document.body.append(JSON.stringify({first, warm, focused}));
  document.head.remove();
};
end();
</script>
"""


def measured(page: str, folder: Path, width: int) -> dict[str, Any]:
    """What a browser makes of a page: without a choice, with heat maps, and with the second pair focused."""
    assert CHROMIUM is not None
    file = folder / "page.html"
    file.write_text(page.replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    line = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    line += [f"--window-size={width},900", "--virtual-time-budget=4000", "--dump-dom", file.as_uri()]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    text = re.search(r"\{.*\}", html.unescape(done.stdout), re.DOTALL)
    assert text is not None, done.stdout
    return dict(orjson.loads(text[0]))


@pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed")
@pytest.mark.parametrize(("width", "stage"), [(1300, "stage wide"), (500, "stage tall")])
def test_a_browser_draws_each_region_where_it_lies(tmp_path: Path, width: int, stage: str) -> None:
    long = "anamewithoutaplacetobreakit" * 10
    made = explanation(id=long, query=replace(explanation().query, label=long), notices=(long,))
    seen = measured(made.to_html(), tmp_path, width)
    first, warm, focused = seen["first"], seen["warm"], seen["focused"]
    assert first["stage"] == stage
    assert first["width"] <= first["window"]  # nothing sticks out to the right
    (query, hit) = first["pictures"]
    assert query[2] / query[3] == pytest.approx(160 / 90, rel=0.01)
    assert hit[2] / hit[3] == pytest.approx(120 / 180, rel=0.01)
    if stage == "stage wide":
        assert query[0] + query[2] < hit[0]
    else:
        assert query[1] + query[3] < hit[1]
    expected = [
        (0.3, (0, 0), (0, 1 / 3)),
        (0.6, (0.5, 0), (0.5, 2 / 3)),
        (0.9, (0.5, 0.5), (0, 0)),
    ]  # the strongest last
    for (_, of_query, of_hit), boxes in zip(expected, first["pairs"], strict=True):
        for picture, corner, box, share in (
            (query, of_query, boxes[0], (0.5, 0.5)),
            (hit, of_hit, boxes[1], (0.5, 1 / 3)),
        ):
            assert (box[0] - picture[0]) / picture[2] == pytest.approx(corner[0], abs=0.02)
            assert (box[1] - picture[1]) / picture[3] == pytest.approx(corner[1], abs=0.02)
            assert box[2] / picture[2] == pytest.approx(share[0], abs=0.03)
            assert box[3] / picture[3] == pytest.approx(share[1], abs=0.03)
    assert (first["lines"], first["heat"]) == (True, False)
    assert (warm["lines"], warm["heat"]) == (False, True)
    assert focused["dim"] == [pytest.approx(0.08, abs=0.01), 1, pytest.approx(0.08, abs=0.01)]
    assert first["dim"] == [1, 1, 1]
    assert first["paper"] == "light dark"

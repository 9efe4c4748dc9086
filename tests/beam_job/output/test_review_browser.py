"""The review page in a real browser: one page, and tests that go from looking at it to changing it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from beam_job.cli.command import main
from tests.conftest import has_package
from tests.reviewed import BROKEN, HOSTILE, IMAGES, Captioner, run, write_images

ENTER, ESCAPE = "\ue007", "\ue00c"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads: Path) -> Iterator[Any]:
    if not (CHROMIUM and DRIVER and has_package("selenium")):
        pytest.skip("needs chromium, chromedriver and selenium")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reviewed")
    write_images(folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("beam_job.captioning.caption_shards.load_captioner", lambda *_: Captioner())
        run(folder / "photos", folder / "out")
    return folder / "out"


@pytest.fixture
def page(browser: Any, output: Path) -> Any:
    [page] = output.glob("runs/*/index.html")
    browser.get(page.as_uri())
    return browser


def texts(page: Any) -> list[str]:
    return [found.text for found in page.find_elements("css selector", "#grid .caption")]


def choose(page: Any, name: str, value: str) -> None:
    page.find_element("css selector", f"#{name} option[value={value}]").click()


def click(page: Any, selector: str) -> None:
    page.find_element("css selector", selector).click()


def keys(page: Any, *pressed: str) -> None:
    for key in pressed:
        page.switch_to.active_element.send_keys(key)


def search(page: Any, words: str) -> None:
    page.find_element("id", "search").clear()
    page.find_element("id", "search").send_keys(words)


def progress(page: Any) -> str:
    return page.find_element("id", "progress").text


def test_it_shows_all_and_asks_for_nothing(page: Any) -> None:
    assert len(texts(page)) == IMAGES + 1
    assert f"{IMAGES + 1} of {IMAGES + 1} shown" in page.find_element("id", "found").text
    assert decoded(page) == IMAGES + 1
    requests = [
        json.loads(entry["message"])["message"]["params"]["request"]["url"]
        for entry in page.get_log("performance")
        if '"Network.requestWillBeSent"' in entry["message"]
    ]
    assert {url.split(":")[0] for url in requests} <= {"file", "data"}
    assert page.get_log("browser") == []  # no refused script, no error


def decoded(page: Any) -> int:
    """How many pictures the page shows, once all of them are loaded."""
    return page.execute_async_script(
        "const done = arguments[0], images = [...document.querySelectorAll('#grid img')];"
        "const shown = (image) => image.src ? image.decode() : new Promise((next) => setTimeout(next, 50))"
        ".then(() => shown(image));"
        "Promise.all(images.map(shown)).then(() => done(images.length), () => done(-1));"
    )


def test_pictures_beside_the_page_are_loaded(
    browser: Any, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_job.output.page._EMBEDDED_BYTES", 0)
    monkeypatch.setattr("beam_job.output.page._PICTURES_A_SHEET", 20)
    assert main(["review", f"--output={output}", f"--to={tmp_path}/review.html"]) == 0
    browser.get((tmp_path / "review.html").as_uri())
    assert decoded(browser) == IMAGES + 1
    assert browser.get_log("browser") == []


def test_hostile_words_and_names_do_nothing(page: Any) -> None:
    choose(page, "order", "lowest")
    assert texts(page)[0].split() == HOSTILE.split()
    assert page.execute_script("return window.harmed") is None
    assert page.find_elements("css selector", "#grid img[src=x]") == []


def test_search_narrows(page: Any) -> None:
    search(page, "PHOTO 07")
    assert texts(page) == ["brightness 57"]
    assert f"1 of {IMAGES + 1} shown" in page.find_element("id", "found").text


def test_failures(page: Any) -> None:
    choose(page, "show", "failures")
    assert len(texts(page)) == BROKEN
    assert "decode: ImageError" in page.find_element("id", "grid").text


def test_order_by_name_and_score(page: Any) -> None:
    choose(page, "order", "name")
    assert texts(page)[1:4] == ["brightness 50", "brightness 51", "brightness 52"]
    choose(page, "order", "highest")
    assert texts(page)[0] == "brightness 50"


def test_every_control_has_a_name_and_takes_the_keyboard(page: Any) -> None:
    controls = page.find_elements("css selector", "input, select, button")
    assert all(control.accessible_name for control in controls if control.is_displayed())
    page.execute_script("document.querySelector('#grid .edit').focus()")
    page.switch_to.active_element.send_keys(ENTER)
    assert page.switch_to.active_element.tag_name == "textarea"
    page.switch_to.active_element.send_keys(ESCAPE)
    assert page.switch_to.active_element.text == "Edit"


def test_keys_check_one_caption_after_the_other(page: Any) -> None:
    choose(page, "order", "name")
    page.execute_script("document.activeElement.blur()")
    keys(page, "j", "r", "b", "e")
    page.switch_to.active_element.send_keys(" more")
    keys(page, ENTER)
    assert progress(page) == f"3 of {IMAGES + 1} checked"
    assert page.find_element("id", "download").text == "Download corrections (2)"
    choose(page, "show", "right")
    assert len(texts(page)) == 1
    choose(page, "show", "unchecked")
    assert len(texts(page)) == IMAGES - 2
    choose(page, "show", "edited")
    assert texts(page) == ["brightness 51 more"]
    choose(page, "show", "all")
    page.execute_script("document.activeElement.blur()")
    keys(page, "j", "z")
    assert page.find_element("id", "large").is_displayed()


def test_no_words_are_lost(page: Any) -> None:
    """By Bad and back, by a search while they are typed, by loading the page again."""
    search(page, "photo 09")
    click(page, "#grid .edit")
    page.switch_to.active_element.send_keys(" of a wall")
    click(page, "#grid .save")
    click(page, "#grid .bad")
    click(page, "#grid .bad")
    assert texts(page) == ["brightness 59 of a wall"]
    click(page, "#grid .edit")
    page.switch_to.active_element.send_keys(", half typed")
    search(page, "photo 10")
    page.refresh()
    search(page, "photo 09")
    area = page.find_element("css selector", "#grid textarea")
    assert area.get_attribute("value") == "brightness 59 of a wall, half typed"
    click(page, "#grid .cancel")
    assert texts(page) == ["brightness 59 of a wall"]


def test_light_and_dark(page: Any) -> None:
    back = "return getComputedStyle(document.body).backgroundColor"
    colours = set()
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        colours.add(page.execute_script(back))
    assert len(colours) == 2


def test_a_phone_shows_one_caption_at_a_time(page: Any) -> None:
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.refresh()
    assert page.execute_script("return document.documentElement.scrollWidth") == 360
    [first] = texts(page)
    click(page, "#next")
    assert texts(page) != [first]
    assert page.find_element("id", "place").text == f"2 of {IMAGES + 1}"
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_another_tab_is_heard(page: Any) -> None:
    name, card = page.execute_script(
        "const data = JSON.parse(document.getElementById('data').textContent);"
        "const said = JSON.parse(sessionStorage.getItem(`caption-images ${data.name}`) ?? '{}');"
        "const keys = data.cards.map((card) => `${card.id} ${card.version}`);"
        "return [data.name, keys.find((key) => !(key in said))];"  # other tests have said something of some
    )

    def tell(key: str, entry: dict[str, Any]) -> str:
        page.execute_script(
            "sessionStorage.setItem(arguments[0], JSON.stringify({[arguments[1]]: {at: Date.now(), ...arguments[2]}}));"
            "dispatchEvent(new StorageEvent('storage', {key: arguments[0]}))",
            *(key, card, entry),
        )
        return page.find_element("id", "download").text

    before = page.find_element("id", "download").text
    assert tell("caption-images another", {"bad": True}) == before
    assert tell(f"caption-images {name}", {"bad": True}) != before
    click(page, "#grid li:nth-child(2) .edit")
    page.switch_to.active_element.send_keys("words ")
    assert tell(f"caption-images {name}", {}) == before
    assert "words " in page.find_element("css selector", "#grid textarea").get_attribute("value")


def test_corrections_come_back(page: Any, output: Path, downloads: Path, tmp_path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    search(page, "photo 03")
    click(page, "#grid .edit")
    area = page.switch_to.active_element
    area.clear()
    area.send_keys('a "grey" dog <b>')
    click(page, "#grid .save")
    search(page, "photo 04")
    click(page, "#grid .bad")
    assert page.execute_script("return [localStorage, sessionStorage].every((kept) => kept.length)")
    page.execute_script("localStorage.clear()")  # what Chromium does by itself, now and then, to a file
    page.refresh()
    click(page, "#download")
    file = downloads / "corrections.jsonl"
    WebDriverWait(page, 30).until(lambda _: file.exists())
    assert page.find_element("id", "download").text.startswith("Download corrections (0 new, ")
    search(page, "photo 03")
    assert "downloaded" in page.find_element("id", "grid").text
    assert main(["correct", f"--output={output}", str(file)]) == 0
    assert main(["snapshot", f"--output={output}", f"--to={tmp_path}/snapshot"]) == 0
    rows = duckdb.sql(
        f"select caption, correction from '{tmp_path}/snapshot/data/*.parquet' "
        "where uri like '%photo 03%' or uri like '%photo 04%' order by uri"
    )
    assert rows.fetchall() == [('a "grey" dog <b>', "edited"), ("brightness 54", "bad")]

    assert main(["review", f"--output={output}", f"--to={tmp_path}/review.html"]) == 0
    page.get((tmp_path / "review.html").as_uri())
    search(page, "photo 03")
    assert texts(page) == ['a "grey" dog <b>']
    click(page, "#grid .undo")
    assert texts(page) == ["brightness 53"]
    assert page.find_element("id", "download").text == "Download corrections (1)"

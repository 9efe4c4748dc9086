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


def test_it_shows_all_and_asks_for_nothing(page: Any) -> None:
    assert len(texts(page)) == IMAGES + 1
    assert "31 of 31 shown" in page.find_element("id", "found").text
    assert page.execute_async_script(
        "const images = [...document.images], told = arguments[0];"
        "images.forEach((image) => { image.loading = 'eager'; });"
        "Promise.all(images.map((image) => image.decode())).then(() => told(true), () => told(false));"
    )
    requests = [
        json.loads(entry["message"])["message"]["params"]["request"]["url"]
        for entry in page.get_log("performance")
        if '"Network.requestWillBeSent"' in entry["message"]
    ]
    assert {url.split(":")[0] for url in requests} <= {"file", "data"}
    assert page.get_log("browser") == []  # no refused script, no error


def test_hostile_words_and_names_do_nothing(page: Any) -> None:
    choose(page, "show", "lowest")
    assert texts(page)[0].split() == HOSTILE.split()
    assert page.execute_script("return window.harmed") is None
    assert page.find_elements("css selector", "#grid img[src=x]") == []


def test_search_narrows(page: Any) -> None:
    page.find_element("id", "search").send_keys("PHOTO 07")
    assert texts(page) == ["brightness 57"]
    assert "1 of 31 shown" in page.find_element("id", "found").text


def test_failures(page: Any) -> None:
    choose(page, "show", "failures")
    assert len(texts(page)) == BROKEN
    assert "decode: ImageError" in page.find_element("id", "grid").text


def test_every_control_has_a_name_and_takes_the_keyboard(page: Any) -> None:
    controls = page.find_elements("css selector", "input, select, button")
    assert all(control.accessible_name for control in controls)
    page.execute_script("document.querySelector('#grid .edit').focus()")
    page.switch_to.active_element.send_keys("\ue007")  # Enter
    assert page.switch_to.active_element.tag_name == "textarea"
    page.switch_to.active_element.send_keys("\ue00c")  # Escape
    assert page.switch_to.active_element.text == "Edit"


def test_light_and_dark(page: Any) -> None:
    back = "return getComputedStyle(document.body).backgroundColor"
    colours = set()
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        colours.add(page.execute_script(back))
    assert len(colours) == 2


def test_it_fits_a_phone(page: Any) -> None:
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert page.execute_script("return document.documentElement.scrollWidth") == 360
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_another_tab_is_heard(page: Any, output: Path) -> None:
    """Told through sessionStorage: a localStorage that Chromium brings back later would harm the next test."""
    [run_folder] = [path.parent for path in output.glob("runs/*/run.json")]
    key = f"caption-images {run_folder.name}"

    def tell(of: str, edits: dict[str, Any]) -> str:
        page.execute_script(
            "sessionStorage.setItem(arguments[1], JSON.stringify({at: Date.now(), edits: arguments[2]}));"
            "dispatchEvent(new StorageEvent('storage', {key: arguments[0]}))",
            *(of, key, edits),
        )
        return page.find_element("id", "download").text

    assert tell(key, {"0": {"bad": True}}) == "Download corrections (1)"
    assert tell("another run's", {}) == "Download corrections (1)"
    click(page, "#grid .edit")
    page.switch_to.active_element.send_keys("words ")
    assert tell(key, {}) == "Download corrections"
    assert "words " in page.find_element("css selector", "#grid textarea").get_attribute("value")


def test_corrections_come_back(page: Any, output: Path, downloads: Path, tmp_path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    page.find_element("id", "search").send_keys("photo 03")
    click(page, "#grid .edit")
    area = page.switch_to.active_element
    area.clear()
    area.send_keys('a "grey" dog <b>')
    click(page, "#grid .save")
    page.find_element("id", "search").clear()
    page.find_element("id", "search").send_keys("photo 04")
    click(page, "#grid .bad")
    assert page.execute_script("return [localStorage, sessionStorage].every((kept) => kept.length)")
    page.execute_script("localStorage.clear()")  # what Chromium does by itself, now and then, to a file
    page.refresh()
    WebDriverWait(page, 30).until(lambda _: page.find_element("id", "download").text == "Download corrections (2)")
    choose(page, "only", "edited")
    assert texts(page) == ['a "grey" dog <b>']
    click(page, "#download")
    file = downloads / "corrections.jsonl"
    WebDriverWait(page, 30).until(lambda _: file.exists())
    assert main(["correct", f"--output={output}", str(file)]) == 0
    assert main(["snapshot", f"--output={output}", f"--to={tmp_path}/snapshot"]) == 0
    rows = duckdb.sql(
        f"select caption, correction from '{tmp_path}/snapshot/data/*.parquet' where correction is not null "
        "order by uri"
    )
    assert rows.fetchall() == [('a "grey" dog <b>', "edited"), ("brightness 54", "bad")]

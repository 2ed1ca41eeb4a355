"""The page as a person meets it: in Chromium, offline."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.report import render_html
from phi3_lora_qa.report.item_views import item_views, labelling_metrics
from tests.report.builders import failing, incomplete, items, passing
from tests.report.hostile import HOSTILE, hostile_items, hostile_record

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="no chromium; `apt-get install chromium chromium-driver` brings it",
    ),
    pytest.mark.slow,
]

PAGES = {
    "pass": lambda: render_html(passing(), items()),
    "fail": lambda: render_html(failing(), items()),
    "incomplete": lambda: render_html(incomplete(), []),
    "hostile": lambda: render_html(hostile_record(), hostile_items()),
}

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(DRIVER)) as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    paths = {name: folder / f"{name}.html" for name in PAGES}
    for name, path in paths.items():
        path.write_text(PAGES[name](), encoding="utf-8")
    return paths


@pytest.fixture
def visit(driver: Any, pages: dict[str, Path]) -> Iterator[Open]:
    """Open a page by name in a window of a given size and with given media features."""

    def opened(name: str, fragment: str = "", *, width: int = 1280, scheme: str = "light") -> Any:
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [feature]})
        driver.get("about:blank")
        driver.get_log("browser")
        driver.get_log("performance")
        driver.get(f"{pages[name].as_uri()}{fragment}")
        return driver

    yield opened
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def shown_items(driver: Any) -> list[str]:
    script = "return [...document.querySelectorAll('.item')].filter(i => !i.hidden).map(i => i.id)"
    return list(driver.execute_script(script))


def press(driver: Any, keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(driver).send_keys(keys).perform()


def in_first_viewport(driver: Any, selector: str) -> bool:
    script = """
        const box = document.querySelector(arguments[0]).getBoundingClientRect();
        return box.height > 0 && box.top >= 0 && box.bottom <= innerHeight
            && box.right <= innerWidth;
    """
    return bool(driver.execute_script(script, selector))


@pytest.mark.parametrize("width", [1280, 380])
@pytest.mark.parametrize("name", ["pass", "fail", "incomplete"])
def test_verdict_reason_and_what_to_do_are_seen_without_scrolling(
    visit: Open, name: str, width: int
) -> None:
    driver = visit(name, width=width)
    for selector in ("h1", ".reason", "#todo h2"):
        assert in_first_viewport(driver, selector), selector
    assert name.upper() in driver.find_element("css selector", "h1").text


@pytest.mark.parametrize("name", list(PAGES))
def test_nothing_is_logged_and_no_request_leaves(
    visit: Open, pages: dict[str, Path], name: str
) -> None:
    driver = visit(name, "#show=different&find=a")
    assert driver.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = {
        message["params"]["request"]["url"].partition("#")[0]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert urls - {"data:,"} == {pages[name].as_uri()}
    resources = "return performance.getEntriesByType('resource').map(e => e.name)"
    assert set(driver.execute_script(resources)) <= {"data:,"}


def test_hostile_text_is_shown_and_never_run(visit: Open) -> None:
    driver = visit("hostile")
    assert driver.execute_script("return window.pwned") is None
    assert driver.execute_script("return document.images.length") == 0
    assert driver.execute_script("return document.scripts.length") == 1
    answers = driver.execute_script(
        "return [...document.querySelectorAll('.answer')].map(e => e.textContent)"
    )
    for name in ("script", "style", "image", "attribute", "template", "comment", "entity"):
        assert f"tuned {HOSTILE[name]}" in answers
    assert driver.find_element("css selector", "footer").is_displayed()


def test_the_policy_stops_a_script_that_got_in_nevertheless(visit: Open) -> None:
    driver = visit("pass")
    driver.execute_script("""
        const script = document.createElement("script");
        script.textContent = "window.pwned = 1";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.pwned = 1'>");
    """)
    assert driver.execute_script("return window.pwned") is None
    assert any("Content Security Policy" in entry["message"] for entry in driver.get_log("browser"))


@pytest.mark.parametrize("name", ["fail", "hostile"])
@pytest.mark.parametrize("width", [1280, 380])
def test_nothing_makes_the_page_wider_than_the_window(visit: Open, name: str, width: int) -> None:
    driver = visit(name, width=width)
    driver.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width


def test_the_filters_show_the_items_that_they_count(visit: Open) -> None:
    driver = visit("fail")
    views = item_views(items(), labelling_metrics(failing().metrics))
    for flag in ("regressed", "improved", "different"):
        driver.find_element("css selector", f"[data-flag={flag}]").click()
        expected = [view.anchor for view in views if flag in view.flags]
        assert shown_items(driver) == expected
        shown = driver.find_element("id", "shown").text
        assert shown == f"{len(expected)} of {len(views)} shown"
        assert driver.execute_script("return location.hash") == f"#show={flag}"
    pressed = driver.find_elements("css selector", "[aria-pressed=true]")
    assert [button.get_dom_attribute("data-flag") for button in pressed] == ["different"]


def test_the_search_narrows_the_items_and_the_address_restores_the_view(visit: Open) -> None:
    driver = visit("fail")
    press(driver, "/")
    press(driver, "slate")
    found = shown_items(driver)
    assert 0 < len(found) < 40
    fragment = driver.execute_script("return location.hash")
    assert shown_items(visit("fail", fragment)) == found
    driver = visit("fail", "#find=no+such+words")
    assert driver.find_element("id", "nothing").is_displayed()
    driver.find_element("id", "reset").click()
    assert len(shown_items(driver)) == 40


def test_a_link_to_an_item_opens_it_even_if_a_filter_hides_it(visit: Open) -> None:
    target = item_views(items(), labelling_metrics(failing().metrics))[-1].anchor
    driver = visit("fail", "#show=regressed")
    assert target not in shown_items(driver)
    driver.execute_script("location.hash = arguments[0]", target)
    driver.execute_async_script("requestAnimationFrame(() => arguments[0]())")
    assert driver.execute_script("return document.getElementById(arguments[0]).open", target)
    assert in_first_viewport(driver, f"#{target} > summary")


def test_a_link_to_a_check_opens_its_stage(visit: Open) -> None:
    driver = visit("pass", "#check-static.keys")
    assert in_first_viewport(driver, "#check-static\\.keys")


def test_the_keyboard_searches_moves_and_shows_help(visit: Open) -> None:
    driver = visit("fail")
    press(driver, "jj")
    views = item_views(items(), labelling_metrics(failing().metrics))
    focused = "return document.activeElement.closest('.item').id"
    assert driver.execute_script(focused) == views[1].anchor
    press(driver, "k")
    assert driver.execute_script(focused) == views[0].anchor
    press(driver, "?")
    assert driver.find_element("id", "help").is_displayed()
    press(driver, "\ue00c")
    assert not driver.find_element("id", "help").is_displayed()
    press(driver, "/")
    assert driver.execute_script("return document.activeElement.id") == "query"


def test_the_copy_button_copies_the_command_that_reruns_the_check(visit: Open) -> None:
    driver = visit("fail")
    driver.execute_script(
        "navigator.clipboard.writeText = async (text) => { window.copied = text; }"
    )
    driver.find_element("css selector", ".todo .copy").click()
    copied = driver.execute_script("return window.copied")
    assert copied.startswith("pytest phi3::static::finite_values --phi3-adapter=")


def test_dark_and_light_follow_the_system(visit: Open) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = visit("pass").execute_script(paper)
    dark = visit("pass", scheme="dark").execute_script(paper)
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(21, 23, 26)")


def test_a_print_is_light_and_shows_every_detail_and_no_control(visit: Open) -> None:
    driver = visit("fail", scheme="dark")
    feature = {"name": "prefers-color-scheme", "value": "dark"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": [feature]})
    background = "return getComputedStyle(document.body).backgroundColor"
    assert driver.execute_script(background) == "rgb(255, 255, 255)"
    hidden = driver.execute_script("""
        const seen = (e) => e.checkVisibility({ contentVisibilityAuto: true });
        return [...document.querySelectorAll(".answer, .hash, .checks .pairs dd")]
            .filter(e => !seen(e)).length;
    """)
    assert hidden == 0
    assert not driver.find_element("css selector", ".tools").is_displayed()


def test_without_script_everything_is_readable_and_no_dead_control_is_shown(visit: Open) -> None:
    visit("fail").execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    driver = visit("fail")
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert driver.find_element("css selector", ".answer").is_displayed()
    assert not driver.find_element("id", "tools").is_displayed()
    assert not driver.find_element("css selector", ".copy").is_displayed()
    assert len(shown_items(driver)) == 40

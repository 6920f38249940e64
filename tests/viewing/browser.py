"""A headless Chromium for the tests of the page; they skip with a reason where there is none."""

import shutil
import time
from contextlib import contextmanager

import pytest

BUSY = """
  const w = window.wsistain;
  if (!w || !w.panes.list.length || !w.panes.isReady) return true;
  return !w.panes.list.every(p => {
    const world = p.viewer.world;
    for (let i = 0; i < world.getItemCount(); i++) if (!world.getItemAt(i).getFullyLoaded()) return false;
    return world.getItemCount() > 0;
  });
"""


@contextmanager
def browser(width: int = 1400, height: int = 900, *, dark: bool = False, still: bool = True):
    """A Selenium driver; `still` asks the page for reduced motion."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    programs = [shutil.which(n) for n in ("chromium", "chromium-browser", "google-chrome")]
    chromium, driver = next(filter(None, programs), None), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium and chromedriver are here (apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.add_argument("--disable-background-networking")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    page = webdriver.Chrome(options=options, service=Service(driver))
    try:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        if still:
            features.append({"name": "prefers-reduced-motion", "value": "reduce"})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        yield page
    finally:
        page.quit()


def settle(page, seconds: float = 30.0) -> None:
    """Wait until every tile that is in view has arrived."""
    end = time.monotonic() + seconds
    calm = 0
    while calm < 3:
        assert time.monotonic() < end, "tiles do not arrive"
        calm = 0 if page.execute_script(BUSY) else calm + 1
        time.sleep(0.05)


def complaints(page) -> list[str]:
    """What the page said on the console."""
    return [entry["message"] for entry in page.get_log("browser")]

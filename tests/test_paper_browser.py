"""The mock paper as a reader sits it: in JupyterLab, in a real browser."""

import shutil

from test_browser import SECONDS, SETTINGS, chromium, complaints, expect, jupyter_lab, open_notebook, run_all

import notebook_tools as tools
from gm_utils.syllabus import draw

NEEDED = ["mock_paper.ipynb", "02_forward_vs_importance_sampling.ipynb"]
WINDOW = {"width": 1280, "height": 900}  # less than the page, so that going to a section moves it


def test_a_question_is_answered_marked_and_followed_to_its_section(tmp_path):
    with jupyter_lab(tmp_path, SETTINGS) as address, chromium(tmp_path, viewport=WINDOW) as page:
        for name in NEEDED:
            shutil.copy(tools.FOLDER / name, tmp_path / "notebooks")
        open_notebook(page, address(NEEDED[0]))
        run_all(page, 0)
        buttons = page.get_by_role("button", name="Mark this answer")
        expect(buttons).to_have_count(8, timeout=60 * SECONDS)
        expect(page.locator(".widget-textarea textarea")).to_have_count(8)
        total = page.get_by_role("status").filter(has_text="of 50 marks").first
        expect(total).to_contain_text("0 of 50 marks")

        numbers = page.locator(".widget-text input")
        kept = draw(1)[1].values["kept"]
        for text, words in ((f"{2 * kept:.3g}", "not yet"), (f"{kept:.3g}", "right")):
            numbers.first.fill(text)
            numbers.first.press("Enter")
            expect(page.get_by_role("status").filter(has_text=words).first).to_be_visible()

        ticks = page.locator(".widget-checkbox input:visible")
        expect(ticks).to_have_count(0)
        buttons.nth(1).click()
        expect(ticks).to_have_count(4)
        links = page.locator(".jp-CodeCell .jp-OutputArea .jp-OutputArea a:visible")
        expect(links).to_have_count(4)
        ticks.first.check()
        expect(total).to_contain_text("0.5 of 50 marks")
        expect(links).to_have_count(3)
        assert page.locator(".widget-html-content", has_text="$").count() == 0, "a formula that was not set"
        assert complaints(page) == []

        # The first click opens the notebook, the second one goes to the section.
        heading = page.get_by_role("heading", name="Importance sampling: draw elsewhere, then weight")
        for _ in range(2):
            page.locator(".lm-TabBar-tab", has_text="mock_paper").first.click()
            links.nth(2).click()
            expect(heading).to_be_visible(timeout=60 * SECONDS)
        expect(heading).to_be_in_viewport(timeout=20 * SECONDS)

"""A reader of the built site, in a real browser."""

from pathlib import Path

SITE = Path(__file__).parents[1] / "_build" / "html"


class Reader:
    "One tab. It notes what the console complains of and what is asked for off the site."

    def __init__(self, context, site):
        self.site, self.complaints, self.page = site, [], context.new_page()
        self.page.set_default_timeout(120_000)
        self.page.on(
            "console",
            lambda m: (
                self.complaints.append(f"console: {m.text}")
                if m.type in ("error", "warning")
                else None
            ),
        )
        self.page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        self.page.on(
            "requestfailed",
            lambda request: self.complaints.append(f"failed: {request.url} {request.failure}"),
        )
        self.page.on(
            "response",
            lambda answer: (
                self.complaints.append(f"{answer.status}: {answer.url}")
                if answer.status >= 400
                else None
            ),
        )
        self.page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((site, "data:", "blob:", "file:"))
                else self.complaints.append(f"off the site: {request.url}")
            ),
        )

    def open(self, path, width=1300, height=900):
        """Go to a page of the site as on a screen in the light, whatever was shown before, and wait
        until its mathematics is set.
        """
        self.complaints.clear()
        self._show(width, "light", height)
        self.page.goto(f"{self.site}/{path}")
        self.page.evaluate("() => window.MathJax && MathJax.startup && MathJax.startup.promise")
        return self.page

    def _show(self, width, theme, height, media="screen"):
        self.page.set_viewport_size(dict(width=width, height=height))
        self.page.emulate_media(color_scheme=theme, media=media)

    def show(self, width, theme, height=900):
        self._show(width, theme, height)
        self.page.wait_for_function(
            "theme => document.documentElement.dataset.theme === theme", arg=theme
        )

    def print(self):
        "As on A4 between the margins of the PDF."
        self._show(665, "light", 900, media="print")

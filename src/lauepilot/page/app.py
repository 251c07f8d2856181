"""The page itself: where things stand, and what they say. One for each browser, all alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nicegui import run, ui
from nicegui.element import Element

from lauepilot.hardware.page.job import Choice
from lauepilot.hardware.page.standing import State
from lauepilot.page.live import Live, View
from lauepilot.page.panels import SIGNS, WORDS, duration, ending_html, line_html, step_words, under_the_word
from lauepilot.page.pictures import SCALES

_HERE = Path(__file__).parent

#: Seconds between two updates of a browser.
UPDATE_S = 0.2

#: How many times faster than the wall a simulated instrument may run.
SPEEDS = {1.0: "as in reality", 10.0: "10 × faster", 60.0: "60 × faster", 0.0: "at once"}


class Pattern(Element, component="pattern.js"):
    """The canvas with the last pattern."""

    def show(self, **properties: Any) -> None:
        """Send what has changed to the browser."""
        changed = {name: value for name, value in properties.items() if self._props.get(name) != value}
        if changed:
            self._props.update(changed)
            self.update()


class Page:
    """The page of one browser."""

    def __init__(self, live: Live) -> None:
        self.live, self.session = live, live.session
        self.maker = live.session.maker
        self._line = 0
        self._beat = 0
        self._problem = ""
        self._refused = ""
        self._shown: tuple[int, str] = (0, "log")
        ui.dark_mode(True)
        ui.add_css((_HERE / "page.css").read_text("utf-8"))
        ui.add_body_html(f"<script>{(_HERE / 'page.js').read_text('utf-8')}</script>")
        self._top()
        with ui.element("main").classes("body"):
            with ui.element("section").classes("stack").props('aria-label="Pattern"'):
                self._pattern()
            with ui.element("section").classes("stack").props('aria-label="Crystal and axes"'):
                self._crystal()
            with ui.element("section").classes("stack").props('aria-label="Run"'):
                self._run()
        self.update()
        ui.timer(UPDATE_S, self.update)

    # ----------------------------------------------------------------------------------------------------- layout

    def _top(self) -> None:
        with ui.element("header").classes("top"):
            with ui.element("div").classes("state") as self.state:
                self.word = ui.label().classes("word").props('role=status aria-live=assertive id="state"')
                self.why = ui.label().classes("why").props('id="why"')
                self.progress = ui.html("", sanitize=False).classes("progress")
            with ui.element("div").classes("commands"):
                self.start = self._command("Start", self._on_start, "go")
                self.hold = self._command("Pause", self._on_hold)
                self.hold_label = self.hold.default_slot.children[0]
            with ui.element("button").classes("abort") as abort:
                ui.label("ABORT")
            abort.props('type=button id="abort" aria-label="Abort: stop motors and shutter now"')
            abort.on("click", js_handler="() => window.lauepilotAbort()")
        ui.label().classes("banner").props('id="abort-said" role=alert')
        ui.label("NO CONNECTION: what you see is old. The run goes on. Abort still tries.").classes(
            "banner"
        ).props('id="old" role=alert')
        self.beat = ui.label().props('id="beat" aria-hidden=true').style("display: none")

    def _command(self, text: str, handler: Callable[[], Any], kind: str = "") -> Element:
        with ui.element("button").classes(f"command {kind}") as button:
            ui.label(text)
        return button.props(f'type=button id="{text.lower()}"').on("click", handler)

    def _pattern(self) -> None:
        with ui.element("div").classes("panel grow"):
            self.pattern_head = ui.label().classes("headline").style("font-size: 14px; font-weight: 600")
            self.pattern = Pattern()
            self.pattern.classes("grow").props('id="pattern"')
            with ui.element("div").classes("tools"):
                self.found = self._switch("found", "○ found", "key found")
                self.predicted = self._switch("predicted", "× predicted", "key predicted")
                self.scale = ui.toggle(list(SCALES), value="log").props(
                    'dense no-caps aria-label="Scale of the counts"'
                )
                self.scale.on_value_change(self.update)
                ui.label("◐").props('title="contrast" aria-hidden=true')
                self.contrast = ui.slider(min=-2.0, max=2.0, step=0.1, value=-0.6).style("width: 52px")
                self.contrast.props('aria-label="Contrast"').on_value_change(self.update)
                for text, label, call in (
                    ("+", "Zoom in", "zoom(1.5)"),
                    ("−", "Zoom out", "zoom(1/1.5)"),
                    ("fit", "Whole pattern", "fit()"),
                ):
                    with ui.element("button").classes("small-button") as button:
                        ui.label(text)
                    button.props(f'type=button aria-label="{label}"')
                    button.on("click", js_handler=f"() => getElement({self.pattern.id}).{call}")

    def _switch(self, name: str, text: str, kind: str) -> ui.checkbox:
        box = ui.checkbox(text, value=True).classes(kind).props(f'dense id="show-{name}"')
        box.on_value_change(self.update)
        return box

    def _crystal(self) -> None:
        with ui.element("div").classes("panel"), ui.element("div").classes("numbers"):
            self.off = self._number("off target", "off")
            self.sigma = self._number("last frame, 1 σ", "sigma")
            self.clock = self._number("time", "clock")
            self.dose = self._number("open shutter", "dose")
        with ui.element("div").classes("panel"):
            ui.html("<h2>Along the beam: ⊕ wanted, ● believed</h2>", sanitize=False)
            self.stereogram = ui.html("", sanitize=False).classes("stereogram").props('id="stereogram"')
        with ui.element("div").classes("panel"):
            self.axes = ui.html("", sanitize=False).classes("axes").props('id="axes"')

    def _number(self, name: str, kind: str) -> ui.label:
        with ui.element("div").classes("number"):
            value = (
                ui.label("–")
                .style("font-size: 24px; font-weight: 750; line-height: 1.15")
                .props(f'id="{kind}"')
            )
            ui.html(f"<span>{name}</span>", sanitize=False)
        return value

    def _run(self) -> None:
        with ui.element("div").classes("panel"):
            self.step = ui.label().classes("headline").props('id="step"')
            self.reason = ui.label().classes("reason").props('id="reason"')
            self.sure = ui.label().classes("sure").props('id="confidence"')
        self.ending = ui.html("", sanitize=False).classes("panel").props('id="ending"')
        with ui.element("div").classes("panel"):
            self._choices()
        with ui.element("div").classes("panel grow"):
            ui.html("<h2>Log</h2>", sanitize=False)
            self.log = (
                ui.element("div")
                .classes("log")
                .props('id="log" role=log tabindex=0 aria-label="Log, newest first"')
            )

    def _choices(self) -> None:
        first = self.session.standing().choice
        faults = list(self.maker.faults)
        with ui.element("div").classes("setup"):
            crystals = list(dict.fromkeys((*self.maker.crystals, first.crystal)))
            self.crystal = ui.select(crystals, label="Crystal", value=first.crystal, with_input=True)
            self.exposure = ui.number("Usual exposure (s)", value=first.exposure_s, min=0.001, step=1.0)
            self.target = ui.input("Target", value=first.target).classes("wide")
            self.fields: list[Any] = [self.crystal, self.exposure, self.target]
            self.faults = self.speed = None
            if faults:
                self.faults = ui.select(faults, label="Faults (simulated)", value=first.faults)
                self.speed = ui.select(_with(SPEEDS, first.speed), label="Its clock", value=first.speed)
                self.fields += [self.faults, self.speed]
            for item, name in zip(
                self.fields, ("crystal", "exposure", "target", "faults", "speed"), strict=False
            ):
                item.props(f'dense outlined dark for="choose-{name}"').on_value_change(self._check)
        self.problem = ui.label().classes("problem").props('id="problem" role=alert')

    # --------------------------------------------------------------------------------------------------- commands

    def choice(self) -> Choice:
        """What the fields say.

        Raises
        ------
        ValueError
            If the exposure is no number.
        """
        try:
            seconds = float(self.exposure.value)
            speed = 1.0 if self.speed is None else float(self.speed.value)
        except (TypeError, ValueError):
            raise ValueError(
                "The usual exposure must be a number of seconds, and the clock's speed one too."
            ) from None
        return Choice(
            str(self.crystal.value or ""), str(self.target.value or ""), seconds,
            "" if self.faults is None else str(self.faults.value),
            speed,
        )  # fmt: skip

    async def _check(self) -> None:
        try:
            await run.io_bound(self.maker.check, self.choice())
        except ValueError as error:
            self._problem = str(error)
        else:
            self._problem = ""
        self._refused = ""
        self.update()

    async def _on_start(self) -> None:
        await self._command_to_session(lambda: self.session.start(self.choice()))

    async def _on_hold(self) -> None:
        paused = self.session.standing().state is State.PAUSED
        await self._command_to_session(self.session.resume if paused else self.session.pause)

    async def _command_to_session(self, command: Callable[[], None]) -> None:
        self._refused = ""
        try:
            await run.io_bound(command)
        except ValueError as error:
            self._refused = str(error)
        self.update()

    # ---------------------------------------------------------------------------------------------------- updates

    def update(self) -> None:
        """Bring the page up to date; what has not changed is not sent."""
        view = self.live.view
        at = view.at
        word, tone = WORDS[at.state]
        self._classes(self.state, f"state tone-{tone}")
        self.word.set_text(f"{SIGNS[tone]} {word}")
        self.why.set_text(under_the_word(at))
        share = at.progress if at.busy and math.isfinite(at.progress) else None
        self.progress.set_content("" if share is None else f'<i style="width:{100.0 * share:.0f}%"></i>')
        self._commands(view)
        step, reason, sure = step_words(at)
        self.step.set_text(step)
        self.reason.set_text(reason)
        self.sure.set_text(f"confidence {sure}" if sure else "")
        self.off.set_text(f"{view.off_deg:.2f}°" if math.isfinite(view.off_deg) else "–")
        self.sigma.set_text(f"± {view.sigma_deg:.2g}°" if math.isfinite(view.sigma_deg) else "–")
        self.clock.set_text(duration(at.clock_s))
        self.dose.set_text(f"{at.dose_s:.0f} s" if at.dose_s >= 10.0 else f"{at.dose_s:.1f} s")
        self.axes.set_content(view.axes)
        self.stereogram.set_content(view.stereogram)
        ending = ending_html(at)
        self.ending.set_content(ending)
        self.ending.set_visibility(bool(ending))
        self._show_pattern(view)
        self._show_log()
        self._beat += 1
        if self._beat % 5 == 0:
            self.beat.set_text(str(self._beat))

    def _commands(self, view: View) -> None:
        at = view.at
        self._enable(self.start, not at.busy and not self._problem, self._problem or "A run is on.")
        self.hold_label.set_text("Resume" if at.state is State.PAUSED else "Pause")  # type: ignore[attr-defined]
        self._enable(self.hold, at.state in {State.RUNNING, State.PAUSED}, "Nothing runs.")
        self._classes(self.hold, "command go" if at.state is State.PAUSED else "command")
        self.problem.set_text(self._problem or self._refused)
        if at.busy:  # another browser may have started it: all show what runs
            wanted = replace(at.choice)
            values = (wanted.crystal, wanted.exposure_s, wanted.target, wanted.faults, wanted.speed)
            for item, value in zip(self.fields, values, strict=False):
                if isinstance(item, ui.select) and value not in item.options:
                    item.set_options(_with(item.options, value))
                if item.value != value:
                    item.set_value(value)
        for item in self.fields:
            item.set_enabled(not at.busy)

    def _show_pattern(self, view: View) -> None:
        sight = view.at.sight
        if view.number == 0 or sight is None:
            self.pattern_head.set_text("No pattern yet")
            source, label = "", "No pattern yet"
        else:
            n = 0 if sight.observation.spots is None else len(sight.observation.spots)
            label = f"Pattern {view.number}: {sight.frame.live_time_s:.3g} s, {n} spots found"
            source = f"/picture/{view.number}/{self.scale.value}.png"
            self.pattern_head.set_text(label)
        self.pattern.show(
            src=source, marks=view.marks, found=bool(self.found.value), predicted=bool(self.predicted.value),
            contrast=float(self.contrast.value), label=label,
        )  # fmt: skip

    def _show_log(self) -> None:
        lines = self.session.journal.after(self._line)
        if not lines:
            return
        self._line = lines[-1].number
        with self.log:
            for line in lines[-200:]:  # the newest on top, where it is seen without scrolling
                ui.html(line_html(line), sanitize=False).move(target_index=0)
        for old in list(self.log.default_slot.children)[200:]:
            self.log.remove(old)

    @staticmethod
    def _classes(element: Element, classes: str) -> None:
        if " ".join(element.classes) != classes:
            element.classes(replace=classes)

    @staticmethod
    def _enable(button: Element, enabled: bool, otherwise: str) -> None:
        if enabled == ("disabled" in button.props):
            button.props(remove="disabled title") if enabled else button.props(
                f'disabled title="{_quoted(otherwise)}"'
            )


def _with(options: Any, value: Any) -> Any:
    """Options of a field, and one more that another browser or the command line chose."""
    if value in options:
        return options
    return {**options, value: f"{value:g} × faster"} if isinstance(options, dict) else [*options, value]


def _quoted(text: str) -> str:
    """Text for a property that NiceGUI parses: without quotes and backslashes."""
    return text.replace("\\", "/").replace('"', "'").replace("\n", " ")

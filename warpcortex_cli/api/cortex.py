"""The Python API: a model, a profile and a conversation in one object.

    with Cortex("smollm2") as cortex:
        for event in cortex.chat("What do 3 pens at $1.20 each cost?"):
            if isinstance(event, RiverText):
                print(event.text, end="")

It talks through the same `Session` as `warpcortex chat`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self, TypeVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.jupyter import JupyterMixin

from warpcortex_cli.api.reply import Reply
from warpcortex_cli.errors import UsageError
from warpcortex_cli.events import Event, Listener, RiverText
from warpcortex_cli.prism.opening import AUTO, choose, loaded
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.process import importing, prepare
from warpcortex_cli.ui.answer import Answer, Shown
from warpcortex_cli.ui.panels import Scene, live_panels

if TYPE_CHECKING:
    from warpcortex_cli.engine.contents import Said
    from warpcortex_cli.engine.grammar import Grammars
    from warpcortex_cli.engine.session import Session
    from warpcortex_cli.engine.view import SessionView, StreamView
    from warpcortex_cli.prism.prism import Prism
    from warpcortex_cli.profile import Profile

Messages = Sequence[Mapping[str, str]]
_T = TypeVar("_T")
_HEIGHT = 24  # lines of the panels in a notebook


class _Shared:
    """What all forks share: the model, and one step at a time."""

    def __init__(self, prism: Prism) -> None:
        self.prism = prism
        self.lock = threading.RLock()
        self.open = 0
        self._thread: ThreadPoolExecutor | None = None
        self._grammars: Grammars | None = None

    def grammars(self) -> Grammars:
        if self._grammars is None:
            from warpcortex_cli.engine.grammar import Grammars

            self._grammars = Grammars(self.prism)
        return self._grammars

    async def apart(self, do: Callable[[], _T]) -> _T:
        """Runs something in the thread that steps, one thing after another.

        What has begun is finished even if the caller is cancelled: a step cannot be left in the middle.
        """
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "warpcortex")
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, do))

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=False)


class Cortex(JupyterMixin):
    """A River with its Streams. It may be used from several threads and tasks; one reply of it is written at a time.

    Args:
        model: as `-m` takes it: pocket, smollm2, a folder, a GGUF file, ollama:NAME or org/name. None: the profile's.
        profile: a shipped profile's name, a file, or a `Profile`. None: pocket for the model pocket, else assistant.
        device, dtype, quantize: as the command line takes them.
        seed: the same seed gives the same replies on a CPU.
        streams: whether requests in River text start Streams.
        programs: those that roles of the profile may start.

    Raises:
        UsageError: there is no such profile, or it has mistakes.
        ModelError: the model is not on this machine, or cannot be served.
        MemoryLimitError: it does not fit.
    """

    def __init__(
        self,
        model: str | None = None,
        profile: str | Profile | None = None,
        *,
        device: str = AUTO,
        dtype: str = AUTO,
        quantize: str = AUTO,
        seed: int = 0,
        streams: bool = True,
        programs: Sequence[str] = (),
    ) -> None:
        prepare()
        source, settings = choose(model, profile if profile is None or isinstance(profile, str) else None)
        if profile is not None and not isinstance(profile, str):
            settings = profile
        prism = loaded(source, LoadOptions(device, dtype, quantize))
        with importing():
            from warpcortex_cli.engine.calibration import stored
            from warpcortex_cli.engine.session import Session

        session = Session(
            prism, settings, seed=seed, streams=streams, calibration=stored(prism), programs=programs
        )  # fmt: skip
        self._take(_Shared(prism), session, settings)

    def _take(self, shared: _Shared, session: Session, profile: Profile) -> None:
        self._shared, self._session, self._profile = shared, session, profile
        self._shown = Shown()
        self._closed = False
        shared.open += 1

    # -- talking ------------------------------------------------------------------------------------------------

    def chat(self, text: str | Messages, **asked: Any) -> Iterator[Event]:
        """Says something and yields what happens: typed events, the last one `RiverFinished`.

        Leaving the loop ends the reply; what was written so far stays in the conversation.

        Args:
            text: the user's words; or a whole conversation as {"role": ..., "content": ...} messages, of which only
                what is new is read.
            asked: for this reply alone: `schema` (JSON that keeps to it, which takes the extra `serve`), `seed`,
                `max_tokens`, `stop` (texts), `temperature`, `top_p`, `top_k`, `min_p`, `repetition_penalty`,
                `presence_penalty`, `frequency_penalty`, `likeliest` (`RiverToken` events with so many alternatives).

        Raises:
            UsageError: nothing was asked, or something that there is not.
            RunError: the reply failed while running.
        """
        with self._locked():
            reply = self._asked(text, asked)
        return self._following(reply)

    def ask(self, text: str | Messages, **asked: Any) -> Reply:
        """The same, as one value: the whole reply. Raises as `chat` does."""
        found = Reply()
        for event in self.chat(text, **asked):
            found.take(event)
        return found.finished(self.streams)

    async def achat(self, text: str | Messages, **asked: Any) -> AsyncIterator[Event]:
        """`chat` for asyncio: `async for event in cortex.achat("...")`. Steps run in a thread.

        Forks may write at the same time; their steps are then one forward.
        """
        reply = await self._shared.apart(lambda: self.chat(text, **asked))
        try:
            while (event := await self._shared.apart(lambda: next(reply, None))) is not None:
                yield event
        finally:
            self._session.interrupt()  # of no effect once it is over
            await self._shared.apart(reply.close)  # type: ignore[attr-defined]

    async def aask(self, text: str | Messages, **asked: Any) -> Reply:
        """`ask` for asyncio."""
        found = Reply()
        async for event in self.achat(text, **asked):
            found.take(event)
        return found.finished(self.streams)

    def _following(self, reply: Iterator[Event]) -> Iterator[Event]:
        """Yields the events of a reply, and holds the lock only while it steps."""
        answer = Answer()
        try:
            while True:
                with self._locked():
                    event = next(reply, None)
                if event is None:
                    return
                if isinstance(event, RiverText):
                    answer.feed(event)
                yield event
        finally:
            with self._shared.lock:
                reply.close()  # type: ignore[attr-defined]
                turns = self._session.turns
                answer.finish()
                if turns and turns[-1].role == "assistant":
                    self._shown.note(len(turns) - 1, answer.text, turns[-1].text)

    def _asked(self, text: str | Messages, asked: Mapping[str, Any]) -> Iterator[Event]:
        from warpcortex_cli.api.asked import options_of, profile_for, turns_of
        from warpcortex_cli.engine.dialogue import instructed

        session = self._session
        if not session.river.idle:
            raise UsageError("this Cortex is writing a reply already.", "Wait for its end, or fork() the conversation.")
        options = options_of(asked, self._shared.grammars)
        settings = profile_for(self._profile, asked)
        if isinstance(text, str):
            self._use(settings)
            return session.send(text, options)
        system, turns = turns_of(text)
        self._use(instructed(settings, system))
        return session.sent(session.answer(self._shown.meant(turns), options))

    def _use(self, profile: Profile) -> None:
        if profile != self._session.profile:
            self._session.set_profile(profile)

    def read(self, notes: str) -> int:
        """Reads notes that stand before the next words. Returns how many tokens they have."""
        with self._locked():
            return self._session.load_notes(notes)

    def interrupt(self) -> None:
        """Ends the reply that is being written, after the current step. Safe to call from anywhere."""
        self._session.interrupt()

    # -- thoughts -------------------------------------------------------------------------------------------------

    def inject(self, text: str) -> StreamView:
        """Puts a thought beside the River, which then knows it; no reply shows it. Between replies, or within one.

        Returns:
            The Stream that it counts as: `injected`, or `gating` until the reply's next steps have read it.
        """
        from warpcortex_cli.engine.view import stream_view

        with self._locked():
            stream = self._session.inject(text)
            return stream_view(stream, stream.spawned)

    def withdraw(self, stream: int) -> None:
        """Takes a thought out of the River's attention again, by the number of its Stream."""
        with self._locked():
            self._session.withdraw(stream, "undo")

    def undo(self) -> str | None:
        """Withdraws the last thought of the last reply or, if there is none, the last turn. Returns its text."""
        with self._locked():
            done = self._session.undo()
            return None if done is None else done.text

    # -- looking --------------------------------------------------------------------------------------------------

    @property
    def streams(self) -> list[StreamView]:
        """All Streams that are remembered, oldest first."""
        return self.view.streams

    @property
    def view(self) -> SessionView:
        """River, Streams, Synapse, Gate and memory at this moment."""
        with self._locked():
            return self._session.snapshot()

    @property
    def turns(self) -> list[Said]:
        """What was said: each with `role` and `text`."""
        return self._session.transcript()

    @property
    def model(self) -> str:
        return self._shared.prism.name

    @property
    def profile(self) -> Profile:
        return self._profile

    def listen(self, listener: Listener) -> None:
        """Calls `listener` with every event from now on, in order."""
        self._session.listen(listener)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The panels of `chat`, in a terminal or a notebook."""
        view = self.view
        yield live_panels(Scene(view, view.streams, None, True, 0, 0), options.max_width, _HEIGHT)

    # -- life cycle -----------------------------------------------------------------------------------------------

    def fork(self) -> Cortex:
        """Another Cortex with the same model that holds the same conversation. Each goes on in its own way.

        Raises:
            UsageError: a reply is being written.
        """
        with self._locked():
            other = Cortex.__new__(type(self))
            other._take(self._shared, self._session.fork(), self._profile)
            other._shown = self._shown.copy()
        return other

    def close(self) -> None:
        """Ends the conversation. The model is freed with the last fork. Closing twice does nothing."""
        with self._shared.lock:
            if self._closed:
                return
            self._closed = True
            self._session.close()
            self._shared.open -= 1
            if not self._shared.open:
                self._shared.close()

    def _locked(self) -> threading.RLock:
        """The lock of all forks. Raises UsageError if this Cortex is closed."""
        if self._closed:
            raise UsageError("this Cortex is closed.", "Open another one.")
        return self._shared.lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

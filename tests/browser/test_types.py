"""The types of the JavaScript client, by TypeScript's compiler."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.test_pages import message_types
from tests.support.declared_types import FOLDER, TYPES, names_in
from voxtral_worker.sessions.config import OPTIONS
from voxtral_worker.settings import REPOSITORY


def test_the_types_know_every_option_and_every_message_of_the_worker() -> None:
    assert set(OPTIONS) <= names_in("interface", "Options")
    wire = message_types()
    assert {"text_delta", "text_response", "error"} <= wire
    assert wire <= set(re.findall(r'^  type: "(\w+)";', TYPES, re.MULTILINE))


GOOD = """
import { Microphone, Speaker, Voxtral, VoxtralError, type Options } from "VOXTRAL";

const config: Options = { mode: "chat", temperature: 0, stop: ["a"], seed: null };
const voxtral = new Voxtral("http://localhost:8000", { token: "key", config });
const off: () => void = voxtral.on("text_delta", ({ text, turn_id: id }) => console.log(text + id));
voxtral.on("text_response", ({ metrics, finish_reason }) => {
  const total: number = metrics.total_ms;
  if (finish_reason === "stop") console.log(total.toFixed());
});
voxtral.on("message", (message) => {
  if (message.type === "transcript_partial") console.log(message.stable_chars.toFixed());
});
voxtral.on("tool_call", ({ call_id, arguments: given }) => voxtral.sendToolResult(call_id, given));
const speaker = new Speaker();
voxtral.on("sound", (sound) => speaker.play(sound));
voxtral.on("state", ({ state, retryAt }) => console.log(state === "waiting" && retryAt?.toFixed()));
const microphone = new Microphone({ onChunk: (chunk) => voxtral.sendAudio(chunk) });
await microphone.start({ deviceId: "x" }).catch((error: VoxtralError) => console.log(error.code));
const id: string = voxtral.sendText("hello");
voxtral.update({ barge_in: false });
await voxtral.open();
off();
console.log(id);
"""
WRONG = {
    "an option that there is not": "voxtral.update({ temprature: 0 });",
    "a value that an option may not have": 'voxtral.update({ mode: "sing" });',
    "an event that there is not": 'voxtral.on("text_detla", () => {});',
    "a field that an event has not": 'voxtral.on("text_delta", ({ words }) => console.log(words));',
    "a text for audio": 'voxtral.sendAudio("sound");',
}


def tsc(folder: Path, code: str) -> tuple[int, str]:
    compiler = shutil.which("tsc") or shutil.which(
        "tsc", path=str(REPOSITORY / ".clients" / "node_modules" / ".bin")
    )
    if compiler is None:
        pytest.skip("the types are checked by TypeScript's compiler: make clients, or tsc on PATH")
    module = str(FOLDER / "voxtral.js")
    (folder / "program.mts").write_text(code.replace("VOXTRAL", module), "utf-8")
    options = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext"]
    libraries = ["--lib", "es2024,dom,dom.iterable", "--types", ""]
    done = subprocess.run(
        [compiler, *options, *libraries, "program.mts"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_program_with_the_types_compiles(tmp_path: Path) -> None:
    assert tsc(tmp_path, GOOD) == (0, "")


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_does_not_compile(tmp_path: Path, mistake: str) -> None:
    code = 'import { Voxtral } from "VOXTRAL";\nconst voxtral = new Voxtral("http://a");\n'
    returned, told = tsc(tmp_path, code + WRONG[mistake])
    assert returned != 0
    assert len(re.findall(r"error TS\d+", told)) == 1, told
    assert "program.mts(3," in told

"""Time the decoder in a browser: python -m tools.bench.browser_decoder DATASET --model vit_b.

Milliseconds for one prompt in headless Chromium by ONNX Runtime Web, beside native onnxruntime on the same
graphs, in turn. First graphs alone, one thread each: the whole decoder, and the split one. Then what a page
of the viewer does, with the threads that it takes: its worker, on an image of the dataset. CPU time, of all
threads together, is what other programs on the machine change less. Weights make no difference: without
released ones at hand, ``--checkpoint random`` will do. Needs Debian's chromium, playwright, the extras
``viewer`` and ``onnx``, and what ``view --fetch-runtime`` brings.
"""

import argparse
import base64
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sam_engine.__main__ import called
from sam_engine.catalogue import DEFAULT_MODEL, MODELS
from sam_engine.config import ModelConfig
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import ConfigError
from sam_engine.web.runtime import find_runtime

from ..command import command_line
from .onnx_prompts import NAMES, inputs_of, open_session, write_graphs

TIMEOUT_MS = 600_000
GRAPHS = """async (graphs) => {
    const ort = await import("/runtime/ort.wasm.min.mjs");
    Object.assign(ort.env.wasm, { wasmPaths: "/runtime/", numThreads: 1 });
    window.graphs = {};
    for (const [name, { file, inputs }] of Object.entries(graphs)) {
        const bytes = Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0));
        const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
        const noise = (shape) => Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, Math.random);
        const feeds = {};
        for (const [input, { shape, values }] of Object.entries(inputs)) {
            const numbers = values ? Float32Array.from(values) : noise(shape);
            feeds[input] = new ort.Tensor("float32", numbers, shape);
        }
        window.graphs[name] = { session, feeds };
        await session.run(feeds);
    }
}"""
RUN_GRAPH = """async (name) => {
    const { session, feeds } = window.graphs[name];
    const started = performance.now();
    await session.run(feeds);
    return performance.now() - started;
}"""
SESSION = """async ([ref, threads]) => {
    const { PromptSession } = await import("/static/prompting.js");
    const session = window.session = await PromptSession.start(threads ? { threads } : {});
    if (session.decoding.by !== "browser") {
        await new Promise((resolve) => session.addEventListener("decoding", resolve, { once: true }));
    }
    const { width, height } = await session.open(ref);
    window.click = { points: [[width / 2, height / 2]], labels: [1] };
    window.first = await session.predict(window.click);
    return session.decoding;
}"""
PROMPT = """async (refine) => {
    const started = performance.now();
    const previous = refine ? window.first.candidates[0].logits : undefined;
    const found = await window.session.predict({ ...window.click, previous });
    window.session.mask(found.candidates[found.chosen]);
    return [found.ms, performance.now() - started];
}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, time and print."""
    parser = argparse.ArgumentParser(
        prog=called("tools.bench.browser_decoder"), description="Time the decoder in headless Chromium."
    )
    parser.add_argument("dataset", help="any that has an image")
    parser.add_argument("--model", choices=MODELS, default=DEFAULT_MODEL, help=f"default: {DEFAULT_MODEL}")
    parser.add_argument("--checkpoint", help="known name, path or URL; default: the model's own")
    parser.add_argument("--threads", type=int, help="of the page's worker (default: as a page takes)")
    parser.add_argument("--runs", type=int, default=15, metavar="N", help="of each (default 15)")
    parser.add_argument("--json", action="store_true", help="print all times as JSON")
    options = parser.parse_args(arguments)
    if options.runs < 1 or (options.threads or 1) < 1:
        raise ConfigError(f"--runs is {options.runs} and --threads {options.threads}; wanted is 1 or more")
    if find_runtime() is None:
        raise ConfigError("ONNX Runtime Web is missing: run `python -m tools.view --fetch-runtime`")
    times = measure(options)
    if options.json:
        text = json.dumps(times, indent=2)
    else:
        text = "\n".join(
            f"{name:<44} median {statistics.median(ms):7.1f} ms, least {min(ms):7.1f}"
            for name, ms in times.items()
        )
    sys.stdout.write(text + "\n")
    return 0


def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the milliseconds of each run, by what was run."""
    from sam_engine.build_sam import load_model

    config = ModelConfig(name=options.model, checkpoint=options.checkpoint, device="cpu")
    sam = load_model(config)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_graphs(sam, Path(folder))
        sessions = {name: open_session(path, 1) for name, path in paths.items()}
        files = {name: base64.b64encode(path.read_bytes()).decode() for name, path in paths.items()}
    inputs = {name: inputs_of(session, sam.image_size / 2) for name, session in sessions.items()}
    times: dict[str, list[float]] = {}
    with served(options.dataset, config) as address, chromium() as new_page:
        page = new_page(address)
        page.evaluate(GRAPHS, {name: {"file": files[name], "inputs": _sent(inputs[name])} for name in NAMES})
        for name in NAMES:
            session, given = sessions[name], inputs[name]
            session.run(None, given)
            native, browser = [], []
            before = time.thread_time(), _cpu_s_of_browser()
            for _ in range(options.runs):
                native.append(_milliseconds(lambda session=session, given=given: session.run(None, given)))
                browser.append(page.evaluate(RUN_GRAPH, name))
            after = time.thread_time(), _cpu_s_of_browser()
            cpu = [1000 * (end - start) / options.runs for start, end in zip(before, after, strict=True)]
            times |= {f"native, 1 thread: {name}": native, f"native, CPU time: {name}": cpu[:1]}
            times |= {f"browser, 1 thread: {name}": browser, f"browser, CPU time: {name}": cpu[1:]}
        page.context.close()
        page = new_page(address)
        decoding = page.evaluate(SESSION, ["images/0", options.threads])
        if decoding["by"] != "browser":
            raise ConfigError(f"the page does not decode: {decoding['why']}")
        page_name = f"page, {decoding['threads']} threads"
        for kind, refine in (("click", False), ("with a mask to refine", True)):
            before = _cpu_s_of_browser()
            pairs = [page.evaluate(PROMPT, refine) for _ in range(options.runs)]
            cpu = 1000 * (_cpu_s_of_browser() - before) / options.runs
            decoded, shown = ([pair[i] for pair in pairs] for i in (0, 1))
            times |= {f"{page_name}: {kind}": decoded, f"{page_name}: {kind}, to the mask": shown}
            times[f"{page_name}, CPU time: {kind}"] = [cpu]
    return times


@contextmanager
def served(dataset: str, config: ModelConfig) -> Iterator[str]:
    """Serve a dataset to this process; yield the address, with its token."""
    from sam_engine.web.app import Viewer
    from sam_engine.web.prompting import make_prompt_model
    from sam_engine.web.server import serving

    viewer = Viewer(open_dataset(dataset), model=make_prompt_model(config))
    try:
        with serving(viewer) as address:
            yield address
    finally:
        viewer.prompting.close()


@contextmanager
def chromium() -> Iterator[Callable[[str], Any]]:
    """Yield what opens a page of an address.

    Raises:
        ConfigError: Chromium or playwright is not installed.
    """
    executable = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise ConfigError("playwright is missing: pip install playwright") from error
    if executable is None:
        raise ConfigError("chromium is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu"]
        )

        def new_page(address: str) -> Any:
            page = browser.new_context().new_page()
            page.set_default_timeout(TIMEOUT_MS)
            page.goto(address)
            return page

        yield new_page
        browser.close()


def _cpu_s_of_browser() -> float:
    """Return the CPU time that the processes below this one have used."""
    parents, used = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid = int(path.parent.name)
        parents[pid], used[pid] = int(fields[1]), int(fields[11]) + int(fields[12])

    def is_ours(pid: int) -> bool:
        return pid in parents and (parents[pid] == os.getpid() or is_ours(parents[pid]))

    return sum(ticks for pid, ticks in used.items() if is_ours(pid)) / os.sysconf("SC_CLK_TCK")


def _sent(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return inputs as a page takes them: small ones as they are, of large ones the shape alone."""
    return {
        name: {"shape": list(value.shape), "values": value.ravel().tolist() if value.size < 100 else None}
        for name, value in inputs.items()
    }


def _milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    command_line(main)

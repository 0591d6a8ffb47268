// Latency of models in the browser that shows this page: the live part of the page of `mcc bench --show`.

import { loadLiteRt } from "@litertjs/core";

import { load, timed } from "./models.mjs";

const SAMPLE_MS = 22; // as BROWSER_SAMPLE_US of mcc/runtime/litert_web.py: clocks of browsers are coarse
const WARM_MS = 400; // the engine optimises hot code
const ROUNDS = 15;
const PER_TURN = 3;

const breath = () => new Promise((resolve) => setTimeout(resolve)); // lets the page draw
const nowMs = () => performance.now();

function percentile(values, share) {
    const sorted = [...values].sort((a, b) => a - b);
    return sorted[Math.round(share * (sorted.length - 1))];
}

async function warm(model) {
    const begin = nowMs();
    let least = Infinity; // minimum of short trials: a disturbed one must not make the samples short
    for (let repeats = 1; nowMs() - begin < WARM_MS; repeats = Math.min(2 * repeats, 64)) {
        const [us] = await timed(model, nowMs, { settle: 1, repeats, samples: 1 });
        if (us > 0) least = Math.min(least, us); // 0 on a clock that is too coarse
    }
    return Math.max(1, Math.ceil((SAMPLE_MS * 1e3) / least));
}

/** Entries {file, median, p10, p90, samples, per_sample, size_bytes} of files {name, address}, in turns. */
export async function measure(files, say) {
    say("loading LiteRT.js");
    globalThis.liteRt ??= await loadLiteRt("./litertjs/core/wasm/");
    const entries = [];
    for (const { name, address } of files) {
        say(`loading ${name}`);
        const bytes = new Uint8Array(await (await fetch(address)).arrayBuffer());
        const model = await load(bytes);
        entries.push({ file: name, size_bytes: bytes.length, model, per_sample: await warm(model), samples: [] });
    }
    for (let round = 0; round < ROUNDS; round++) {
        say(`round ${round + 1} of ${ROUNDS}`);
        await breath();
        for (let i = 0; i < entries.length; i++) {
            const entry = entries[(i + round) % entries.length];
            const how = { settle: 1, repeats: entry.per_sample, samples: PER_TURN };
            entry.samples.push(...(await timed(entry.model, nowMs, how)));
        }
    }
    return entries.map(({ model, ...entry }) => ({
        ...entry,
        median: percentile(entry.samples, 0.5),
        p10: percentile(entry.samples, 0.1),
        p90: percentile(entry.samples, 0.9),
    }));
}

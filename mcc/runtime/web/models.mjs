// Loading, running and timing models in LiteRT.js: the same code under Node.js (runner.mjs) and in a browser
// (browser.mjs, bench.mjs), so that their measurements differ only in the engine.

import { Tensor, getGlobalLiteRt, loadAndCompile } from "@litertjs/core";

import { TYPES, UsageError, elements } from "./messages.mjs";

const describe = (details) => details.map((d) => ({ name: d.name, shape: Array.from(d.shape), dtype: d.dtype }));

/** A compiled model with an input to time it on. */
export async function load(bytes) {
    const compiled = await loadAndCompile(bytes, { accelerator: "wasm" });
    const inputs = describe(compiled.getInputDetails());
    const outputs = describe(compiled.getOutputDetails());
    for (const { name, dtype } of [...inputs, ...outputs]) {
        if (TYPES[dtype] === undefined) throw new Error(`LiteRT.js hands over no ${dtype} arrays (${name})`);
    }
    const feed = inputs.map(({ shape, dtype }) => new Tensor(noise(shape, dtype), shape));
    return { compiled, inputs, outputs, feed };
}

// A fixed pseudo-random sequence (mulberry32), uniform in [-1.7, 1.7]: variance one, like the host's inputs.
function noise(shape, dtype) {
    const data = new TYPES[dtype](elements(shape));
    if (dtype !== "float32") return data;
    let state = 1;
    for (let i = 0; i < data.length; i++) {
        state = (state + 0x6d2b79f5) | 0;
        let t = Math.imul(state ^ (state >>> 15), 1 | state);
        t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
        data[i] = (((t ^ (t >>> 14)) >>> 0) / 4294967296 - 0.5) * 3.4;
    }
    return data;
}

/** One inference on the model's own input. */
export async function invoke(model) {
    for (const output of await model.compiled.run(model.feed)) output.delete();
}

/** One inference; arrays of {data, shape, dtype} in and out. */
export async function infer(model, arrays) {
    const feed = arrays.map(({ data, shape }, i) => {
        const wanted = model.inputs[i].shape;
        if (shape.length !== wanted.length || shape.some((size, axis) => size !== wanted[axis])) {
            throw new UsageError(`input '${model.inputs[i].name}' has shape [${wanted}], got [${shape}]`);
        }
        return new Tensor(data, shape);
    });
    try {
        const results = await model.compiled.run(feed);
        return results.map((tensor, i) => {
            const data = tensor.toTypedArray().slice(); // out of the WebAssembly memory, which may move
            tensor.delete();
            return { data, shape: model.outputs[i].shape, dtype: model.outputs[i].dtype };
        });
    } finally {
        for (const tensor of feed) tensor.delete();
    }
}

/** Inferences of all images; each output, concatenated over them. */
async function inferMany(model, { data, shape, dtype }) {
    const wanted = model.inputs[0].shape;
    const size = elements(wanted);
    const times = shape[0] / wanted[0];
    const joined = model.outputs.map((output) => ({
        data: new TYPES[output.dtype](times * elements(output.shape)),
        shape: [times * output.shape[0], ...output.shape.slice(1)],
        dtype: output.dtype,
    }));
    for (let i = 0; i < times; i++) {
        const image = data.subarray(i * size, (i + 1) * size);
        const part = { data: image, shape: [wanted[0], ...shape.slice(1)], dtype };
        const results = await infer(model, [part]);
        results.forEach((result, k) => joined[k].data.set(result.data, i * result.data.length));
    }
    return joined;
}

/** Microseconds per inference of `samples` samples, each the mean of `repeats` inferences; `nowMs` is a clock. */
export async function timed(model, nowMs, { settle, repeats, samples }) {
    for (let i = 0; i < settle; i++) await invoke(model);
    const us = [];
    for (let sample = 0; sample < samples; sample++) {
        const begin = nowMs();
        for (let i = 0; i < repeats; i++) await invoke(model);
        us.push(((nowMs() - begin) * 1e3) / repeats);
    }
    return us;
}

/**
 * Bytes of the WebAssembly memory up to the last one that was ever written: its peak use so far.
 *
 * New memory is zero, and the allocator marks the end of its blocks. Freed memory keeps its content. The length of
 * the memory is less informative: it is 17 MB from the start.
 */
function highWaterBytes() {
    const words = new Int32Array(getGlobalLiteRt().liteRtWasm.HEAPU8.buffer);
    let end = words.length;
    while (end > 0 && words[end - 1] === 0) end--;
    return end * words.BYTES_PER_ELEMENT;
}

/**
 * The answers to the requests of mcc/runtime/process.py.
 *
 * `readFile(path)` returns the bytes of a file, `nowMs()` the time.
 */
export function answering({ readFile, nowMs }) {
    const models = new Map();
    return async ({ header, arrays }) => {
        const model = models.get(header.model);
        switch (header.op) {
            case "load": {
                const loaded = await load(await readFile(header.file));
                models.set(header.model, loaded);
                return [{ inputs: loaded.inputs, outputs: loaded.outputs }, []];
            }
            case "run":
                return [{}, await infer(model, arrays)];
            case "run_many":
                return [{}, await inferMany(model, arrays[0])];
            case "turn": {
                const { settle, per_sample: repeats, samples } = header;
                return [{ us: await timed(model, nowMs, { settle, repeats, samples }) }, []];
            }
            case "memory": {
                const before = highWaterBytes();
                const loaded = await load(await readFile(header.file));
                for (let i = 0; i < header.runs; i++) await invoke(loaded);
                return [{ growth_bytes: highWaterBytes() - before }, []];
            }
            default:
                throw new UsageError(`the runner knows no request '${header.op}'`);
        }
    };
}

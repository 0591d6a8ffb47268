// The runner of `litert-web`: LiteRT.js under Node.js, one thread, speaking the messages of mcc/runtime/wire.py.
//
//     node runner.mjs
//
// LiteRT.js is written for browsers; it loads its WebAssembly by `importScripts` and finds itself by `self`. Both,
// and the two names that Emscripten expects from CommonJS, are defined below before it is imported. It picks the
// relaxed-SIMD module where the engine has it (V8 from version 11.4, Node.js 20 on), the plain SIMD one otherwise.

import { readFileSync, readSync, writeFileSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import vm from "node:vm";

const here = path.dirname(fileURLToPath(import.meta.url));
const core = path.join(here, "node_modules", "@litertjs", "core");
const wasm = path.join(core, "wasm") + path.sep;

console.log = console.error; // what the runtime prints must not disturb the messages on standard output

globalThis.self = globalThis;
globalThis.require = createRequire(import.meta.url);
globalThis.__dirname = path.join(core, "wasm");
globalThis.importScripts = (...files) => {
    for (const file of files) vm.runInThisContext(readFileSync(file, "utf8"), { filename: String(file) });
};

const { Tensor, loadAndCompile, loadLiteRt } = await import(pathToFileURL(path.join(core, "dist", "index.js")).href);

const TYPES = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array };

class UsageError extends Error {}

// ---- messages ----

function readExactly(count) {
    const data = Buffer.alloc(count);
    let have = 0;
    while (have < count) {
        let got;
        try {
            got = readSync(0, data, have, count - have, null);
        } catch (error) {
            if (error.code === "EAGAIN") continue;
            if (error.code === "EOF") return null;
            throw error;
        }
        if (got === 0) return null;
        have += got;
    }
    return data;
}

function readRequest() {
    const prefix = readExactly(8);
    if (prefix === null) return null;
    const head = readExactly(prefix.readUInt32LE(0));
    const payload = readExactly(prefix.readUInt32LE(4));
    if (head === null || payload === null) return null;
    const header = JSON.parse(head.toString("utf8"));
    let offset = 0;
    const arrays = header.tensors.map(({ dtype, shape }) => {
        const Type = TYPES[dtype];
        if (Type === undefined) throw new UsageError(`LiteRT.js takes no ${dtype} arrays`);
        const count = shape.reduce((a, b) => a * b, 1);
        const bytes = count * Type.BYTES_PER_ELEMENT;
        // a copy: typed arrays must be aligned to their element size
        const data = new Type(payload.buffer.slice(payload.byteOffset + offset, payload.byteOffset + offset + bytes));
        offset += bytes;
        return { data, shape, dtype };
    });
    return { header, arrays };
}

function writeFully(data) {
    for (let done = 0; done < data.length; ) {
        try {
            done += writeSync(1, data, done, data.length - done);
        } catch (error) {
            if (error.code !== "EAGAIN") throw error;
        }
    }
}

function writeAnswer(header, arrays) {
    const tensors = arrays.map(({ shape, dtype }) => ({ shape, dtype }));
    const head = Buffer.from(JSON.stringify({ ...header, tensors }), "utf8");
    const parts = arrays.map(({ data }) => Buffer.from(data.buffer, data.byteOffset, data.byteLength));
    const prefix = Buffer.alloc(8);
    prefix.writeUInt32LE(head.length, 0);
    prefix.writeUInt32LE(parts.reduce((sum, part) => sum + part.length, 0), 4);
    for (const part of [prefix, head, ...parts]) writeFully(part);
}

// ---- models ----

const models = new Map();

const describe = (details) => details.map((d) => ({ name: d.name, shape: Array.from(d.shape), dtype: d.dtype }));

async function load(file) {
    const compiled = await loadAndCompile(new Uint8Array(readFileSync(file)), { accelerator: "wasm" });
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
    const data = new TYPES[dtype](shape.reduce((a, b) => a * b, 1));
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

async function invoke(model) {
    for (const output of await model.compiled.run(model.feed)) output.delete();
}

async function infer(model, arrays) {
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

async function inferMany(model, { data, shape, dtype }) {
    const wanted = model.inputs[0].shape;
    const size = wanted.reduce((a, b) => a * b, 1);
    const { shape: outShape, dtype: outType } = model.outputs[0];
    const outSize = outShape.reduce((a, b) => a * b, 1);
    const times = shape[0] / wanted[0];
    const results = new TYPES[outType](times * outSize);
    for (let i = 0; i < times; i++) {
        const image = data.subarray(i * size, (i + 1) * size);
        const part = { data: image, shape: [wanted[0], ...shape.slice(1)], dtype };
        results.set((await infer(model, [part]))[0].data, i * outSize);
    }
    return { data: results, shape: [times * outShape[0], ...outShape.slice(1)], dtype: outType };
}

async function turn({ model: number, settle, per_sample: repeats, samples }) {
    const model = models.get(number);
    for (let i = 0; i < settle; i++) await invoke(model);
    const us = [];
    for (let sample = 0; sample < samples; sample++) {
        const begin = process.hrtime.bigint();
        for (let i = 0; i < repeats; i++) await invoke(model);
        us.push(Number(process.hrtime.bigint() - begin) / 1e3 / repeats);
    }
    return { us };
}

function peakBytes() {
    return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))[1]) * 1024;
}

// The peak, set to what is resident now where the system allows it: start-up must not hide the model's growth.
function freshPeakBytes() {
    try {
        writeFileSync("/proc/self/clear_refs", "5");
    } catch {
        return peakBytes();
    }
    return peakBytes();
}

async function memory({ file, runs }) {
    const before = freshPeakBytes();
    const model = await load(file);
    for (let i = 0; i < runs; i++) await invoke(model);
    return { growth_bytes: peakBytes() - before };
}

async function answer({ header, arrays }) {
    switch (header.op) {
        case "load": {
            const model = await load(header.file);
            models.set(header.model, model);
            return [{ inputs: model.inputs, outputs: model.outputs }, []];
        }
        case "run":
            return [{}, await infer(models.get(header.model), arrays)];
        case "run_many":
            return [{}, [await inferMany(models.get(header.model), arrays[0])]];
        case "turn":
            return [await turn(header), []];
        case "memory":
            return [await memory(header), []];
        default:
            throw new UsageError(`the runner knows no request '${header.op}'`);
    }
}

await loadLiteRt(wasm);

for (let request; (request = readRequest()) !== null; ) {
    try {
        const [header, arrays] = await answer(request);
        writeAnswer({ ok: true, ...header }, arrays);
    } catch (error) {
        const text = String(error?.message ?? error).replace(/\s+/g, " ").slice(0, 300);
        const usage = error instanceof UsageError;
        writeAnswer({ ok: false, error: usage ? text : `the runtime refuses it: ${text}`, usage }, []);
    }
}
process.exit(0);

// The runner of `litert-web:node`: LiteRT.js under Node.js, one thread, exchanging the messages of
// mcc/runtime/wire.py on its standard streams.
//
//     node runner.mjs
//
// LiteRT.js is written for browsers; it loads its WebAssembly by `importScripts` and finds itself by `self`. Both,
// and the two names that Emscripten expects from CommonJS, are defined below before it is imported. It picks the
// relaxed-SIMD module where the engine has it (V8 from version 11.4, Node.js 20 on), the plain SIMD one otherwise.

import { readFileSync, readSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import vm from "node:vm";

import { decode, encode, refusal, sizes } from "./messages.mjs";

const here = path.dirname(fileURLToPath(import.meta.url));
const wasm = path.join(here, "node_modules", "@litertjs", "core", "wasm") + path.sep;

console.log = console.error; // output of the runtime must not corrupt the messages on standard output

globalThis.self = globalThis;
globalThis.require = createRequire(import.meta.url);
globalThis.__dirname = wasm;
globalThis.importScripts = (...files) => {
    for (const file of files) vm.runInThisContext(readFileSync(file, "utf8"), { filename: String(file) });
};

const { loadLiteRt } = await import("@litertjs/core");
const { answering } = await import("./models.mjs");

function readExactly(count) {
    const data = new Uint8Array(count);
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
    const parts = sizes(prefix).map(readExactly);
    return parts.includes(null) ? null : parts;
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

await loadLiteRt(wasm);
const readFile = (file) => new Uint8Array(readFileSync(file));
const answer = answering({ readFile, nowMs: () => performance.now() });

for (let request; (request = readRequest()) !== null; ) {
    let parts;
    try {
        const [header, arrays] = await answer(decode(...request));
        parts = encode({ ok: true, ...header }, arrays);
    } catch (error) {
        parts = encode(refusal(error), []);
    }
    for (const part of parts) writeFully(part);
}
process.exit(0);

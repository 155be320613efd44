// Both halves of tests/peers/llama_cpp. `compare MODEL ROUNDS` starts a process for each measurement; `measure MODEL` is
// llama.cpp's own, which prints one line of JSON.
import { execFileSync } from "node:child_process";
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";

const number = (name, otherwise) => Number(process.env[name] ?? otherwise);
const prefill = number("PREFILL", 512);
const decode = number("DECODE", 128);
const threads = number("THREADS", cpus().length);

async function measure(path) {
  const { getLlama } = await import("node-llama-cpp");
  const llama = await getLlama({ gpu: false, build: "never", maxThreads: threads, logLevel: "error" });
  const model = await llama.loadModel({ modelPath: path, gpuLayers: 0 });
  const vocabulary = model.fileInfo.metadata.tokenizer?.ggml?.tokens?.length ?? 500;
  const contextSize = prefill + decode + 8;
  const context = await model.createContext({ contextSize, batchSize: Math.min(prefill, 512), threads });
  const sequence = context.getSequence();
  // The first pass brings the file into memory.
  for (const last of [false, true]) {
    await sequence.clearHistory();
    const prompt = Array.from({ length: prefill }, () => Math.floor(Math.random() * vocabulary));
    let start = performance.now();
    await sequence.evaluateWithoutGeneratingNewTokens(prompt.slice(0, -1));
    let tokens = 0;
    let written;
    for await (const _ of sequence.evaluate(prompt.slice(-1), { temperature: 0, yieldEogToken: true })) {
      if (tokens++ === 0) {
        written = performance.now();
      } else if (tokens > decode) {
        break;
      }
    }
    const end = performance.now();
    if (last) {
      const rates = { prefill: (1000 * prefill) / (written - start), decode: (1000 * decode) / (end - written) };
      console.log(JSON.stringify(rates));
    }
  }
  process.exit(0);
}

function peer(path) {
  const output = execFileSync(process.execPath, [fileURLToPath(import.meta.url), "measure", path], { encoding: "utf8" });
  return JSON.parse(output.trim().split("\n").at(-1));
}

function own(path) {
  const sizes = ["--prompt-tokens", prefill, "--generate-tokens", decode + 1, "--threads", threads].map(String);
  const flags = [...sizes, "--repetitions", "2", ...(process.env.QM_FLAGS ?? "").split(" ").filter(Boolean)];
  const output = execFileSync(process.env.QM, ["bench", "--json", "--model", path, ...flags], { encoding: "utf8" });
  const report = JSON.parse(output);
  const [read, written] = [report.prefill[0], report.decode[0]];
  return {
    prefill: read.tokens_per_second.median,
    decode: written.tokens_per_second.median,
    share: written.bandwidth_share,
    bandwidth: report.bandwidth?.bytes_per_second,
  };
}

const median = (values) => {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

function compare(path, rounds) {
  console.log(`${path}: prefill ${prefill}, decode ${decode}, ${threads} threads, tokens a second`);
  const results = [];
  for (let round = 1; round <= rounds; round++) {
    const result = { peer: peer(path), own: own(path) };
    results.push(result);
    const both = (what) => `${what} ${result.own[what].toFixed(2)} / ${result.peer[what].toFixed(2)}`;
    console.log(`round ${round} (own / llama.cpp): ${both("prefill")}, ${both("decode")}`);
  }
  for (const what of ["prefill", "decode"]) {
    const own = median(results.map((r) => r.own[what]));
    const peer = median(results.map((r) => r.peer[what]));
    const ratio = median(results.map((r) => r.own[what] / r.peer[what]));
    console.log(`${what}: median ${own.toFixed(2)}, llama.cpp ${peer.toFixed(2)}, ratio ${ratio.toFixed(2)}`);
  }
  const measured = results.filter((r) => r.own.share != null);
  if (measured.length > 0) {
    const share = (100 * median(measured.map((r) => r.own.share))).toFixed(1);
    const bandwidth = (median(measured.map((r) => r.own.bandwidth)) / 1e9).toFixed(1);
    console.log(`decode moves ${share} % of the ${bandwidth} GB/s that memory gives`);
  }
}

const [mode, path, rounds] = process.argv.slice(2);
if (mode === "measure") {
  await measure(path);
} else {
  compare(path, Number(rounds));
}

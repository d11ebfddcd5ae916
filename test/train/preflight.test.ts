// What finetune refuses before any weight is read: each mistake with an error of its own.
import assert from "node:assert/strict";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { finetune } from "../../src/commands/train/finetune.ts";
import type { LowrankError } from "../../src/errors.ts";
import type { Files } from "../../src/files.ts";
import type { FinetuneEvent, FinetuneOptions } from "../../src/index.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { freeDisk, memoryLimits } from "../../src/platform/node/host.ts";
import type { Platform } from "../../src/platform/platform.ts";
import { refused } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";
import { slow } from "../helpers/slow.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const base = `${fixtures}/tiny-llama`;
const data = `${fixtures}/tiny-e2e/eval.jsonl`;
const root = temporaryFolder();

const OPENED = "the engine was to be opened";

/** Runs up to where the engine would be opened; a read of a weight file's payload is an error unless the engine is due. */
async function prepare(options: object, platform: Partial<Platform> = {}): Promise<Extract<FinetuneEvent, { type: "prepared" }>> {
  let isPrepared = false;
  const read: Files["read"] = (file, offset, length) => {
    const isWeights = file.endsWith(".safetensors") && offset > 8 && length > 256;
    if (isWeights && !isPrepared) throw new Error(`${length} bytes of weights were read`);
    return nodeFiles.read(file, offset, length);
  };
  const openSession = async () => {
    throw new Error(OPENED);
  };
  const given = { base, data, output: path.join(root, "output"), ...options } as FinetuneOptions;
  let prepared: Extract<FinetuneEvent, { type: "prepared" }> | undefined;
  await assert.rejects(
    async () => {
      for await (const event of finetune(given, { files: { ...nodeFiles, read }, openSession, ...platform })) {
        isPrepared = true;
        if (event.type === "prepared") prepared = event;
      }
    },
    (error: Error) => {
      if (error.message !== OPENED) throw error;
      return true;
    },
  );
  return prepared!;
}

/** A copy of the base with a file changed. */
function changed(name: string, file: string, change: (json: Record<string, unknown>) => void): string {
  const folder = path.join(root, name);
  cpSync(base, folder, { recursive: true });
  const json = JSON.parse(readFileSync(`${folder}/${file}`, "utf8"));
  change(json);
  writeFileSync(`${folder}/${file}`, JSON.stringify(json));
  return folder;
}

function file(name: string, text: string): string {
  writeFileSync(path.join(root, name), text);
  return path.join(root, name);
}

function folderWith(...names: string[]): string {
  const folder = mkdtempSync(path.join(root, "taken-"));
  for (const name of names) writeFileSync(path.join(folder, name), "");
  return folder;
}

const chat = file(
  "chat.jsonl",
  `${JSON.stringify({
    messages: [
      { role: "user", content: "a" },
      { role: "assistant", content: "b" },
    ],
  })}\n`,
);
const template = "{% for m in messages %}<|turn_of|>{{ m.role }}: {{ m.content }}<|turn_end|>\n{% endfor %}";

describe("finetune refuses before a weight is read", () => {
  const cases: [string, object, string, RegExp][] = [
    ["the second of two targets", { targetModules: ["q_proj", "k_porj"] }, "lora/no-match", /k_proj[\s\S]*k_porj/],
    ["an expression without a match", { targetModules: "model\\.layer\\.0.*" }, "lora/no-match", /layers/],
    ["an exclusion without a match", { excludeModules: ["lm_haed"] }, "lora/no-match", /lm_head/],
    ["a rank for nothing", { rankPattern: { "mlp.up": 4, q_proj: 4 } }, "lora/no-match", /rankPattern[\s\S]*mlp\.up/],
    ["an alpha for nothing", { alphaPattern: { xyz: 4 } }, "lora/no-match", /alphaPattern[\s\S]*xyz/],
    [
      "a layer that is not there",
      { targetModules: ["q_proj"], layersToTransform: [1, 2] },
      "lora/no-match",
      /between 0 and 1[\s\S]*2/,
    ],
    [
      "a mask with nothing in it, with the number of such rows",
      { data: file("masked.jsonl", '{"prompt":"a b c","completion":"d"}\n'.repeat(3)), maxLength: 2 },
      "data/no-targets",
      /3 records without a target/,
    ],
    [
      "an added token beyond the embedding",
      {
        base: changed("added", "tokenizer.json", (json) =>
          (json["added_tokens"] as unknown[]).push({ id: 512, content: "<|new|>", special: true }),
        ),
      },
      "train/vocabulary",
      /below 512[\s\S]*512/,
    ],
    [
      "an end-of-text id beyond the embedding",
      { base: changed("eos", "generation_config.json", (json) => Object.assign(json, { eos_token_id: [0, 700] })) },
      "train/vocabulary",
      /700.*eos_token_id/,
    ],
    [
      "a pad id beyond the embedding",
      { base: changed("pad", "config.json", (json) => Object.assign(json, { pad_token_id: 512 })) },
      "model/config",
      /pad_token_id/,
    ],
    [
      "a template of another tokenizer",
      { data: chat, base: changed("chat", "tokenizer_config.json", (json) => Object.assign(json, { chat_template: template })) },
      "train/template-tokens",
      /<\|turn_of\|>, <\|turn_end\|>/,
    ],
    ["more positions than there are", { maxLength: 513 }, "train/option", /512/],
    ["a folder with other files", { output: folderWith("thesis.tex") }, "train/output", /thesis\.tex[\s\S]*--force/],
    [
      "an adapter without a run",
      { output: folderWith("adapter_config.json", "adapter_model.safetensors") },
      "train/output",
      /trained model[\s\S]*adapter_model/,
    ],
    ["a finished run without checkpoints", { output: folderWith("run.json", "adapter_model.safetensors") }, "train/output", /./],
  ];
  for (const [what, change, code, text] of cases) {
    it(what, async () => {
      await refused(prepare(change), code, text);
    });
  }

  it("and accepts what only looks like these", async () => {
    await prepare({ output: folderWith("run.json", ".DS_Store") });
    const scaled = changed("scaled", "config.json", (json) =>
      Object.assign(json, { rope_scaling: { type: "linear", factor: 2 } }),
    );
    await prepare({ base: scaled, maxLength: 1024, output: folderWith() });
    const plain = changed("plain-chat", "tokenizer_config.json", (json) =>
      Object.assign(json, { chat_template: template.replaceAll(/<\|\w+\|>/g, "--") }),
    );
    await prepare({ base: plain, data: chat, trainOn: "all", output: folderWith() });
  });
});

describe("memory and disk", slow, () => {
  const GB = 1e9;
  const roomy: Partial<Platform> = { memoryLimits: () => ({ available: 8 * GB, total: 16 * GB }), freeDisk: async () => 8 * GB };

  it("are estimated in the prepared event", async () => {
    const { memory, disk, warnings, trainable } = await prepare({ output: folderWith() }, roomy);
    const { total, ...parts } = memory;
    assert.ok(Math.abs(Object.values(parts).reduce((a, b) => a + b) - total) < 1);
    assert.ok(total > 0.15 * GB && total < 0.4 * GB, `${total}`);
    assert.ok(disk > 3 * 16 * trainable && disk < 4 * 20 * trainable, `${disk}`);
    assert.deepEqual(warnings, []);
  });

  for (const method of ["lora", "full"]) {
    it(`refuse ${method} where it can't fit, with what to change, and --force goes on`, async () => {
      const small = { ...roomy, memoryLimits: () => ({ available: 0.05 * GB, total: 0.05 * GB }) };
      const options = { method, output: folderWith() };
      await assert.rejects(prepare(options, small), (error: LowrankError) => {
        assert.equal(error.code, "train/memory");
        assert.match(error.describe(), /0\.05 GB[\s\S]*--force/);
        return true;
      });
      const { warnings } = await prepare({ ...options, force: true }, small);
      assert.match(warnings.join(), /memory may not suffice/);
    });
  }

  it("warn where the margin is thin", async () => {
    const { memory } = await prepare({ output: folderWith() }, roomy);
    const thin = { ...roomy, memoryLimits: () => ({ available: memory.total * 0.9, total: 16 * GB }) };
    assert.match((await prepare({ output: folderWith() }, thin)).warnings.join(), /memory may not suffice/);
  });

  it("count what the process has already", async () => {
    const { memory } = await prepare({ output: folderWith() }, roomy);
    const used = { memoryLimits: () => ({ available: memory.total * 0.9, total: 16 * GB }), memoryBytes: () => memory.total / 2 };
    assert.deepEqual((await prepare({ output: folderWith() }, used)).warnings, []);
  });

  it("refuse a full disk, warn of a nearly full one", async () => {
    const { disk } = await prepare({ output: folderWith() }, roomy);
    const free = (bytes: number) => ({ ...roomy, freeDisk: async () => bytes });
    await assert.rejects(prepare({ output: folderWith() }, free(disk - 1)), { code: "train/disk" });
    assert.match((await prepare({ output: folderWith() }, free(disk + 1))).warnings.join(), /disk may not suffice/);
    assert.deepEqual((await prepare({ output: folderWith() }, free(2 * disk))).warnings, []);
  });

  it("are reported by this machine", async () => {
    const { available, total } = memoryLimits();
    assert.ok(available > 0 && available <= total && total > 0.1 * GB, `${available} ${total}`);
    assert.ok((await freeDisk(root)) > 0);
  });

  it("leave other people's files as they are when forced", async () => {
    const output = folderWith("thesis.tex");
    mkdirSync(`${output}/figures`);
    await prepare({ output, force: true }, roomy);
    assert.ok(existsSync(`${output}/thesis.tex`) && existsSync(`${output}/figures`));
  });
});

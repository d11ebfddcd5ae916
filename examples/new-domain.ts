// A language model from nothing: random weights, trained in full on descriptions of restaurants, then adapted to word problems by LoRA.
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { evaluate, finetune, initModel } from "lowrank";

const folder = "example-output/new-domain";
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });

/** The texts of a file, the last ones held out. */
function split(name: string, held: number): { data: string; test: string } {
  const lines = readFileSync(`examples/data/${name}.jsonl`, "utf8").trim().split("\n");
  const write = (part: string, some: string[]) => {
    const file = `${folder}/${name}-${part}.jsonl`;
    writeFileSync(file, `${some.join("\n")}\n`);
    return file;
  };
  return { data: write("train", lines.slice(0, -held)), test: write("test", lines.slice(-held)) };
}
const [restaurants, questions] = [split("restaurants", 60), split("questions", 60)];

// Any family and any size: the shapes follow from the config. The vocabulary is that of the embedded model.
const untrained = `${folder}/untrained`;
const config = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: 2048,
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 256,
  initializer_range: 0.05,
  tie_word_embeddings: true,
  bos_token_id: 0,
  eos_token_id: 0,
  pad_token_id: 0,
};
await initModel(config, untrained);
for (const name of ["tokenizer.json", "tokenizer_config.json"]) cpSync(`models/embedded/${name}`, `${untrained}/${name}`);

const usual = { batchSize: 8, maxLength: 96, packing: true, epochs: 3, schedule: "cosine", warmup: 0.05 } as const;
async function follow(what: string, events: ReturnType<typeof finetune>): Promise<void> {
  for await (const event of events) {
    if (event.type === "step" && event.step % 20 === 0) console.log(`${what}, step ${event.step}: loss ${event.loss.toFixed(3)}`);
  }
}
const [base, adapter] = [`${folder}/base`, `${folder}/adapter`];
const inFull = { ...usual, method: "full", base: untrained, data: restaurants.data, output: base, learningRate: 8e-3 } as const;
await follow("restaurants", finetune(inFull));
const byLora = { ...usual, base, data: questions.data, output: adapter, rank: 16, alpha: 32, learningRate: 8e-3 };
await follow("questions", finetune(byLora));

const first = await evaluate({ base: untrained, data: restaurants.test });
const trained = await evaluate({ base, data: restaurants.test });
const adapted = await evaluate({ base, adapter, data: questions.test });
const rows: [string, number, number][] = [
  ["restaurants, trained in full", first.base.perplexity, trained.base.perplexity],
  ["questions, with the adapter", adapted.base.perplexity, adapted.adapter!.perplexity],
];
console.log("perplexity of held-out texts    before    after");
for (const [what, before, after] of rows) {
  console.log(`${what.padEnd(30)} ${before.toFixed(1).padStart(7)} ${after.toFixed(1).padStart(8)}`);
  if (!(after < before / 2)) throw new Error(`not learnt: ${what}, whose perplexity is not halved`);
}

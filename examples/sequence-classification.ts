// A classifier of texts: a small BERT learns from nothing to classify how expensive a place is from what people wrote about it, then, by
// LoRA, where it lies. The texts are those of models/demo (E2E; its README has source and licence).
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { evaluate, finetune, initModel } from "lowrank";
import { wordPieces } from "./common/word-pieces.ts";

const folder = "example-output/sequence-classification";
rmSync(folder, { recursive: true, force: true });

type Question = "price" | "area";
interface Place extends Record<Question, string> {
  text: string;
}

/** What people wrote, and what it says of the price and of the area. */
const places = (part: string): Place[] =>
  readFileSync(`models/demo/${part}.jsonl`, "utf8")
    .trim()
    .split("\n")
    .map((line) => {
      const [asked, answer] = JSON.parse(line).messages.map(({ content }: { content: string }) => content);
      const { price = "not said", area = "not said" } = JSON.parse(answer);
      return { text: asked.replace("Extract the facts as JSON: ", ""), price, area };
    });
const [training, testing] = [places("train"), places("test")];
const classesOf = (question: Question): string[] => [...new Set(training.map((place) => place[question]))].sort();

/** A WordPiece vocabulary: the frequent words of the texts, and for the others their characters. */
function vocabulary(texts: readonly string[]): string[] {
  const counts = new Map<string, number>();
  for (const word of texts.flatMap(
    (text) =>
      text
        .toLowerCase()
        .normalize("NFKD")
        .match(/[a-z]+|\d+|[^\s\w]/g) ?? [],
  )) {
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  const characters = [...new Set([...counts.keys()].join(""))].sort();
  const words = [...counts].filter(([word, count]) => count > 4 && word.length > 1).map(([word]) => word);
  return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ...characters, ...characters.map((one) => `##${one}`), ...words.sort()];
}
const tokens = vocabulary(training.map(({ text }) => text));
const special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
const lowercase = { type: "BertNormalizer", clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true };
const tokenizer = wordPieces(tokens, special, lowercase);

const untrained = `${folder}/untrained`;
await initModel(
  {
    model_type: "bert",
    architectures: ["BertForSequenceClassification"],
    vocab_size: tokens.length,
    hidden_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    intermediate_size: 128,
    max_position_embeddings: 96,
    initializer_range: 0.1,
    hidden_dropout_prob: 0,
    attention_probs_dropout_prob: 0,
    id2label: Object.fromEntries(classesOf("price").entries()),
  },
  untrained,
);
writeFileSync(`${untrained}/tokenizer.json`, JSON.stringify(tokenizer));
writeFileSync(
  `${untrained}/tokenizer_config.json`,
  JSON.stringify({ tokenizer_class: "BertTokenizer", model_max_length: 96, pad_token: "[PAD]", unk_token: "[UNK]" }),
);

/** A data file {text, label} that asks one question of the texts. */
function asking(question: Question, places: readonly Place[], part: string): string {
  const file = `${folder}/${question}-${part}.jsonl`;
  writeFileSync(file, places.map((place) => `${JSON.stringify({ text: place.text, label: place[question] })}\n`).join(""));
  return file;
}
const [price, area] = (["price", "area"] as const).map((question) => ({
  data: asking(question, training, "train"),
  test: asking(question, testing, "test"),
})) as [Record<"data" | "test", string>, Record<"data" | "test", string>];

/** Trains, and says now and then how far it is. */
async function train(options: Parameters<typeof finetune>[0]): Promise<void> {
  for await (const event of finetune(options)) {
    if (event.type === "step" && event.step % 50 === 0) console.log(`  step ${event.step}: loss ${event.loss.toFixed(3)}`);
  }
}

const base = `${folder}/base`;

console.log(`Every weight, on the price (${tokens.length} tokens in the vocabulary):`);
const common = { batchSize: 32, seed: 1, schedule: "cosine", warmup: 0.1 } as const;
await train({ ...common, base: untrained, data: price.data, output: base, method: "full", steps: 250, learningRate: 1e-3 });

console.log("LoRA, on the area:");
const adapter = `${folder}/adapter`;
await train({ ...common, base, data: area.data, output: adapter, rank: 8, steps: 300, learningRate: 5e-3 });

const task = "sequence-classification";
const onPrice = (await evaluate({ task, base, data: price.test })).base!;
const onArea = (await evaluate({ task, base, adapter, data: area.test })).adapter!;
// The base has no classes for the area, so what the adapter has to be better than is the commonest answer.
const commonest = Math.max(...onArea.classes.map(({ support }) => support)) / onArea.count;
console.log(`\n${testing.length} texts, not trained on      accuracy  macro F1`);
const row = (what: string, accuracy: number, macroF1: string) =>
  console.log(`${what.padEnd(30)} ${(100 * accuracy).toFixed(1).padStart(5)}%  ${macroF1.padStart(8)}`);
row("price, base", onPrice.accuracy, onPrice.macroF1.toFixed(3));
row("area, the commonest answer", commonest, "");
row("area, base + adapter", onArea.accuracy, onArea.macroF1.toFixed(3));
if (!(onArea.accuracy > commonest + 0.3)) throw new Error("not learnt: the area");

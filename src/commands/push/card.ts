// The model card of an adapter or a merged model: the hub's metadata, what was trained, how it scored, on what base (huggingface.co/docs/hub/model-cards).

import { describeAdapter } from "../../adapters/describe.ts";
import type { Adapter } from "../../adapters/peft-files.ts";
import { pipelineOf } from "../../tasks/index.ts";
import { figuresOf, type RunMetrics } from "../../train/run-log.ts";
import { grouped } from "../../units.ts";
import type { Certificate } from "../certify/certify.ts";

export interface CardFacts {
  /** owner/name of what the card is for, and of its base. */
  id: string;
  base: string;
  adapter: Adapter | null;
  metrics: RunMetrics | null;
  certificate: Pick<Certificate, "passed" | "weights" | "outputs"> | null;
  license?: string;
  language?: readonly string[];
  version: string;
}

/** Options of a run that the card names; paths and texts of the user's are not among them. */
const SHOWN_OPTIONS = [
  "steps",
  "epochs",
  "batchSize",
  "gradientAccumulation",
  "learningRate",
  "schedule",
  "optimizer",
  "warmup",
  "maxLength",
  "seed",
];

/** The text of README.md. */
export function modelCard(facts: CardFacts): string {
  return `${frontMatter(facts)}\n\n${body(facts)}`;
}

const scalar = (value: string): string => (/^[\w./-]+$/.test(value) ? value : JSON.stringify(value));

function frontMatter({ id, base, adapter, metrics, license, language }: CardFacts): string {
  const pipeline = adapter ? pipelineOf(adapter) : undefined;
  const best = metrics?.bestEval;
  const lines = [
    `base_model: ${scalar(base)}`,
    `base_model_relation: ${adapter ? "adapter" : "merge"}`,
    `library_name: ${adapter ? "peft" : "transformers"}`,
    ...(pipeline ? [`pipeline_tag: ${pipeline}`] : []),
    ...(license ? [`license: ${scalar(license)}`] : []),
    ...(language?.length ? ["language:", ...language.map((one) => `- ${scalar(one)}`)] : []),
    "tags:",
    "- lora",
    "- lowrank",
    ...(adapter ? [`- base_model:adapter:${scalar(base)}`] : []),
    ...(best && pipeline
      ? [
          "model-index:",
          `- name: ${scalar(id.split("/")[1]!)}`,
          "  results:",
          "  - task:",
          `      type: ${pipeline}`,
          "    dataset:",
          "      type: held-out",
          "      name: held-out records of the training run",
          "    metrics:",
          ...measuresOf(best).flatMap(([name, value]) => [`    - type: ${scalar(name)}`, `      value: ${value}`]),
        ]
      : []),
  ];
  return ["---", ...lines, "---"].join("\n");
}

const measuresOf = (row: { loss: number }): [string, number][] => [["loss", row.loss], ...figuresOf(row)];

function body({ id, base, adapter, metrics, certificate, version }: CardFacts): string {
  return [
    `# ${id.split("/")[1]}`,
    "",
    adapter
      ? `An adapter for [${base}](https://huggingface.co/${base}), trained with lowrank ${version}.`
      : `[${base}](https://huggingface.co/${base}) with an adapter merged into its weights, by lowrank ${version}.`,
    ...(adapter ? adapterLines(adapter) : []),
    ...(metrics ? trainingLines(metrics) : []),
    ...(certificate ? certificateLines(certificate) : []),
    ...useLines(id, base, adapter),
    "",
  ].join("\n");
}

function adapterLines(adapter: Adapter): string[] {
  const { config, modules, baseFingerprint } = adapter;
  const { parameters, ranks } = describeAdapter(adapter);
  const targets = typeof config.targetModules === "string" ? config.targetModules : (config.targetModules ?? []).join(", ");
  const rows = [
    ["parameters", grouped(parameters)],
    ["modules", `${modules.length} (${targets})`],
    ["rank", [...ranks.keys()].join(", ")],
    ["alpha", `${config.alpha}${config.useRslora ? ", rank-stabilized" : ""}`],
    ...(baseFingerprint ? [["fingerprint of the base", `\`${baseFingerprint}\``]] : []),
  ];
  return ["", "## Adapter", "", ...tableOf(["", ""], rows)];
}

function trainingLines({ runs, start, bestEval, evals, end }: RunMetrics): string[] {
  const run = runs.at(-1);
  if (!run) return [];
  const { train, eval: held } = run.prepared;
  const count = (data: { count: number; tokens: number }) => `${grouped(data.count)} records, ${grouped(data.tokens)} tokens`;
  const options = SHOWN_OPTIONS.flatMap((name) => {
    const value = run.options[name];
    return typeof value === "number" || (typeof value === "string" && value.length < 40) ? [[name, String(value)]] : [];
  });
  const result = end?.type === "done" ? end.result : null;
  const scored = bestEval ?? evals.at(-1);
  return [
    "",
    "## Training",
    "",
    ...tableOf(
      ["", ""],
      [
        ["training data", count(train)],
        ...(held ? [["evaluation data", count(held)]] : []),
        ...(start ? [["steps", `${result ?? start.steps}`]] : []),
        ...options.filter(([name]) => name !== "steps"),
      ],
    ),
    ...(scored
      ? [
          "",
          "## Scores",
          "",
          "On the held-out records of the run:",
          "",
          ...tableOf(
            ["measure", "value"],
            measuresOf(scored).map(([name, value]) => [name, value.toFixed(4)]),
          ),
        ]
      : []),
  ];
}

function certificateLines({ passed, weights, outputs }: NonNullable<CardFacts["certificate"]>): string[] {
  const [logits] = outputs?.merged ?? [];
  const difference = logits ? ` The largest difference of an output is ${logits.largest.toPrecision(2)}.` : "";
  return [
    "",
    "## Merging",
    "",
    `The certificate of the merge ${passed ? "passed" : "**failed**"}: ${weights.compared} weights were compared with base and adapter.${difference} See certificate.html.`,
  ];
}

function useLines(id: string, base: string, adapter: Adapter | null): string[] {
  if (!adapter) return ["", "## Use", "", "```sh", `npx lowrank chat --base ${id}`, "```"];
  return [
    "",
    "## Use",
    "",
    "```sh",
    `npx lowrank chat --base ${base} --adapter ${id}`,
    "```",
    "",
    "```python",
    "from peft import PeftModel",
    "from transformers import AutoModelForCausalLM",
    "",
    `model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("${base}"), "${id}")`,
    "```",
    "",
    `Name a revision (\`${id}@COMMIT\`) where a result has to be repeatable.`,
  ];
}

const cell = (text: string): string => text.replaceAll("|", "\\|").replace(/\s+/g, " ");
const tableOf = (heads: readonly string[], rows: readonly (readonly string[])[]): string[] => [
  `| ${heads.join(" | ")} |`,
  `|${"---|".repeat(heads.length)}`,
  ...rows.map((row) => `| ${row.map(cell).join(" | ")} |`),
];

// What the model wrote while it was trained: for each prompt its texts from the first step to the last.
import type { RunMetrics } from "../train/run-log.ts";
import { grouped } from "../units.ts";
import { escapeHtml } from "./escape.ts";

const MAX_PROMPTS = 8;
const MAX_STEPS = 10;
const MAX_TEXT_CHARS = 1500;

/** At most `count` items: the first, the last, and between them as evenly as it goes. */
export function spread<T>(items: readonly T[], count: number): T[] {
  if (items.length <= count) return [...items];
  return Array.from({ length: count }, (_, i) => items[Math.round((i * (items.length - 1)) / (count - 1))]!);
}

const text = (value: string): string => `<pre dir="auto">${escapeHtml(value, MAX_TEXT_CHARS)}</pre>`;

/** The samples of a run; empty if it has none. */
export function samplesHtml({ samples }: RunMetrics): string {
  const byPrompt = new Map<string, { expected?: string; texts: { step: number; text: string }[] }>();
  for (const { step, samples: ofStep } of samples) {
    for (const { prompt, expected, text } of ofStep) {
      const found = byPrompt.get(prompt) ?? { texts: [] };
      byPrompt.set(prompt, found);
      if (expected !== undefined) found.expected = expected;
      found.texts.push({ step, text });
    }
  }
  const row = (name: string, value: string) => `<tr><th scope="row">${name}</th><td>${text(value)}</td></tr>`;
  const cards = [...byPrompt].slice(0, MAX_PROMPTS).map(([prompt, { expected, texts }]) => {
    const rows = [
      row("prompt", prompt),
      ...spread(texts, MAX_STEPS).map(({ step, text }) => row(`step ${grouped(step)}`, text)),
      ...(expected === undefined ? [] : [row("expected", expected)]),
    ];
    return `<div class="card"><table class="sample">${rows.join("\n")}</table></div>`;
  });
  const left = byPrompt.size - cards.length;
  return [...cards, ...(left > 0 ? [`<p class="note">${left} more prompts are not shown.</p>`] : [])].join("\n");
}

// The certificate as a page: what was compared, whether it holds, and each weight that the adapter changes.
import { escapeHtml } from "../../report/escape.ts";
import { pageStyle } from "../../report/style.ts";
import type { Difference } from "./behaviour.ts";
import type { Certificate } from "./certify.ts";

const MAX_NAME_CHARS = 300;

export const shownNumber = (value: number): string =>
  value === 0 || (Math.abs(value) >= 0.01 && Math.abs(value) < 1e5)
    ? String(Number(value.toPrecision(4)))
    : value.toExponential(1);

const cells = (tag: "td" | "th", values: readonly string[]): string =>
  values.map((value) => `<${tag}>${escapeHtml(value, MAX_NAME_CHARS)}</${tag}>`).join("");
const tableOf = (heads: readonly string[], rows: readonly (readonly string[])[], kind = ""): string =>
  `<div class="wide"><table${kind && ` class="${kind}"`}><thead><tr>${cells("th", heads)}</tr></thead><tbody>${rows
    .map((row) => `<tr>${cells("td", row)}</tr>`)
    .join("\n")}</tbody></table></div>`;

const differenceRow = (what: string, one: Difference): string[] => [
  what,
  one.output,
  String(one.vectors),
  shownNumber(one.largest),
  shownNumber(one.mean),
  one.divergence ? shownNumber(one.divergence.mean) : "",
  one.divergence ? shownNumber(one.divergence.largest) : "",
  one.agreement === undefined ? "" : `${(100 * one.agreement).toFixed(2)} %`,
];

/** The page of a certificate, without scripts; it needs no network. */
export function certificatePage({ passed, lowrank, base, adapter, merged, weights, outputs, bounds }: Certificate): string {
  const differences = (outputs?.merged ?? []).map((one) => differenceRow("merged", one));
  const effects = (outputs?.base ?? []).map((one) => differenceRow("base alone", one));
  const sums = [...Object.entries(adapter.sha256).map(([name, sum]) => ["adapter", name, sum])];
  for (const [name, sum] of Object.entries(merged.sha256)) sums.push(["merged", name, sum]);
  const percent = (share: number) => `${(100 * share).toFixed(2)} %`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Certificate of a merged model · lowrank</title>
<style>${pageStyle}</style>
</head>
<body>
<main>
<header><h1>Certificate of a merged model</h1>
<p class="lead"><span class="status ${passed ? "good" : "bad"}">${passed ? "passed" : "failed"}</span> · ${escapeHtml(adapter.folder, MAX_NAME_CHARS)} on ${escapeHtml(base.folder, MAX_NAME_CHARS)}</p></header>
<section><h2>Bounds</h2>
${tableOf(
  ["", "what", "found", "limit"],
  bounds.map(({ what, found, limit, holds }) => [holds ? "holds" : "broken", what, shownNumber(found), shownNumber(limit)]),
)}
${weights.problems.length > 0 ? `<ul>${weights.problems.map((problem) => `<li>${escapeHtml(problem, MAX_NAME_CHARS)}</li>`).join("\n")}</ul>` : ""}</section>
<section><h2>Outputs</h2>
<p class="note">${
    outputs
      ? `Compared with the base and the adapter beside it, on ${outputs.rows} rows of ${escapeHtml(outputs.source, MAX_NAME_CHARS)}. The base alone shows how much the adapter changes.`
      : "Nothing was run: give records with --data."
  }</p>
${outputs ? tableOf(["model", "output", "vectors", "largest difference", "mean", "mean divergence (nats)", "largest", "same most probable"], [...differences, ...effects], "numbers") : ""}</section>
<section><h2>Weights</h2>
<p class="note">${weights.compared} weights were compared. Of those that the adapter changes: how much of the update is in the merged weight, how much could be in its number format, and how large the difference from W + s·B·A is beside the update.</p>
${tableOf(
  ["weight", "dtype", "arrived", "possible", "rounding"],
  weights.merged.map(({ name, dtype, arrived, possible, error }) => [
    name,
    dtype,
    percent(arrived),
    percent(possible),
    shownNumber(error),
  ]),
)}</section>
<section><h2>Files</h2>
<p class="note">Fingerprint of the base: ${escapeHtml(base.fingerprint, MAX_NAME_CHARS)}</p>
${tableOf(["", "file", "SHA-256"], sums)}</section>
<footer>Made by lowrank ${escapeHtml(lowrank ?? "")}</footer>
</main>
</body>
</html>
`;
}

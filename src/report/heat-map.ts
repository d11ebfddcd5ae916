// Where an adapter changes the model: layers by modules, each cell with its number and a colour, as a table that needs no script.
import type { AdapterDescription, ModuleDescription } from "../adapters/describe.ts";
import { escapeHtml } from "./escape.ts";

/** A model has at most some hundred layers with some ten modules; a file from a stranger may have anything. */
const MAX_ROWS = 200;
const MAX_COLUMNS = 20;

interface Grid {
  /** Layer, as written in the path, with its tower if there are several; "" for modules outside the layers. */
  rows: string[];
  columns: string[];
  cells: Map<string, ModuleDescription>;
  left: number;
}

const cellKey = (row: string, column: string): string => `${row}\n${column}`;

/** Modules by the first number in their path and what follows it; of a model with several towers the row names its tower. */
function gridOf(modules: readonly ModuleDescription[]): Grid {
  const parts = modules.map(({ path }) => /^(.*?)\.(\d{1,6})\.(.+)$/s.exec(path)?.slice(1) ?? null);
  const towers = towerNames(parts.flatMap((part) => part?.[0] ?? []));
  const order = new Map([...towers.keys()].map((stem, i) => [stem, i]));
  const places = modules.map((module, i) => {
    const [stem, layer, name] = parts[i] ?? [undefined, "", module.path];
    const tower = order.get(stem!) ?? order.size;
    return { module, row: `${towers.get(stem!) ?? ""} ${layer}`.trim(), column: name!, tower, layer: Number(layer) };
  });
  const sorted = [...places].sort((a, b) => a.tower - b.tower || a.layer - b.layer);
  const rows = [...new Set(sorted.map(({ row }) => row))];
  const columns = [...new Set(places.map(({ column }) => column))];
  const shown = { rows: rows.slice(0, MAX_ROWS), columns: columns.slice(0, MAX_COLUMNS) };
  const [inRows, inColumns] = [new Set(shown.rows), new Set(shown.columns)];
  const kept = places.filter(({ row, column }) => inRows.has(row) && inColumns.has(column));
  const cells = new Map(kept.map(({ module, row, column }) => [cellKey(row, column), module]));
  return { ...shown, cells, left: modules.length - cells.size };
}

/** A name for the tower that each path before the number of a layer is in: the first word that is not in all; none if there is one. */
function towerNames(stems: readonly string[]): Map<string, string> {
  const all = [...new Set(stems)];
  const words = all.map((stem) => stem.split("."));
  const shared = words[0]?.findIndex((word, i) => words.some((others) => others[i] !== word)) ?? -1;
  const first = words.map((own) => own[Math.max(0, shared)] ?? "");
  const isUnique = new Set(first).size === all.length;
  return new Map(all.map((stem, i) => [stem, all.length < 2 ? "" : isUnique ? first[i]! : stem]));
}

interface Quantity {
  title: string;
  explanation: string;
  of: (module: ModuleDescription) => number | null;
  /** 0 to 1: how strongly the cell is coloured. */
  strength: (module: ModuleDescription, largest: number) => number;
  text: (value: number) => string;
}

const quantities: Quantity[] = [
  {
    title: "Norm of the update",
    explanation: "‖ΔW‖ = s·‖B·A‖ (Frobenius): how far training moved each weight. The colour is relative to the largest.",
    of: ({ normDelta }) => normDelta,
    strength: ({ normDelta }, largest) => (largest > 0 ? normDelta / largest : 0),
    text: (value) => value.toPrecision(3),
  },
  {
    title: "Effective rank of the update",
    explanation:
      "In how many directions each weight moved: exp of the entropy of the singular values of B·A. The colour is relative to the rank of the adapter there: full where every direction is used alike.",
    of: ({ effectiveRank }) => effectiveRank,
    strength: ({ effectiveRank, rank }) => Math.min(1, (effectiveRank ?? 0) / rank),
    text: (value) => value.toFixed(2),
  },
];

/** The two heat maps of an adapter. */
export function heatMaps({ modules }: AdapterDescription): string {
  const grid = gridOf(modules);
  return quantities.map((quantity) => heatMap(grid, quantity)).join("\n");
}

function heatMap({ rows, columns, cells, left }: Grid, { title, explanation, of, strength, text }: Quantity): string {
  const largest = Math.max(...[...cells.values()].map((module) => of(module) ?? 0));
  const cell = (row: string, column: string): string => {
    const module = cells.get(cellKey(row, column));
    const value = module ? of(module) : null;
    if (!module || value === null) return "<td></td>";
    const share = strength(module, largest);
    const full = `${module.path}: ${value.toPrecision(5)}, rank ${module.rank}`;
    return `<td class="heat${share > 0.6 ? " hot" : ""}" style="--heat:${share.toFixed(3)}" title="${escapeHtml(full, 200)}">${text(value)}</td>`;
  };
  const head = columns.map((column) => `<th scope="col">${escapeHtml(column, 60)}</th>`).join("");
  const body = rows.map((row) => {
    const name = row === "" ? "outside" : row;
    return `<tr><th scope="row">${escapeHtml(name, 60)}</th>${columns.map((column) => cell(row, column)).join("")}</tr>`;
  });
  const note = left > 0 ? `<p class="note">${left} more modules are not shown.</p>` : "";
  return `<h3>${title}</h3>
<p class="note">${explanation}</p>
<div class="wide"><table class="heatmap"><thead><tr><th scope="col">layer</th>${head}</tr></thead>
<tbody>${body.join("\n")}</tbody></table></div>${note}`;
}

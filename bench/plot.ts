// Plots as SVG: lines over a logarithmic x axis, y from 0 or logarithmic too.
export interface Line {
  label: string;
  points: readonly (readonly [x: number, y: number])[];
  isOurs: boolean;
}

export interface Plot {
  title: string;
  x: string;
  y: string;
  lines: readonly Line[];
  logY?: boolean;
}

const [WIDTH, HEIGHT] = [640, 320];
const BOX = { left: 64, right: 424, top: 36, bottom: 272 };
const OURS = ["#0b6e4f", "#2aa876", "#7bc950", "#1b998b", "#5f7a61"];
const THEIRS = ["#c1440e", "#e07a5f", "#8d5b4c", "#b56576", "#6d597a", "#bc8034"];

/** About four round steps up to `most`. */
function ticksTo(most: number): number[] {
  const rough = most / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= rough)!;
  return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, i) => i * step);
}

/** Steps of 1, 2 and 5 from below the least value to above the largest. */
function logTicks(least: number, most: number): number[] {
  const powers = Array.from({ length: 24 }, (_, i) => 10 ** (i - 12)).flatMap((power) => [power, 2 * power, 5 * power]);
  const rounded = powers.map((value) => Number(value.toPrecision(1)));
  const first = rounded.findLastIndex((value) => value <= least);
  return rounded.slice(first, rounded.findIndex((value) => value >= most) + 1);
}

/** Pixels between labels below the axis, at least. */
const LABEL_WIDTH = 58;

const escaped = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const at = (value: number): string => value.toFixed(1);
const text = (x: number, y: number, content: string, more = "") =>
  `<text x="${at(x)}" y="${at(y)}" ${more}>${escaped(content)}</text>`;

export function plotted({ title, x, y, lines, logY = false }: Plot): string {
  const all = lines.flatMap(({ points }) => points);
  const xs = [...new Set(all.map(([value]) => value))].sort((a, b) => a - b);
  const [low, high] = [Math.log2(xs[0]!), Math.log2(xs.at(-1)!)];
  const ys = all.map(([, value]) => value);
  const yTicks = logY ? logTicks(Math.min(...ys), Math.max(...ys)) : ticksTo(Math.max(...ys));
  const [bottom, top] = logY ? [Math.log(yTicks[0]!), Math.log(yTicks.at(-1)!)] : [0, yTicks.at(-1)!];
  const place = (value: number) => BOX.left + ((BOX.right - BOX.left) * (Math.log2(value) - low)) / (high - low || 1);
  const height = (value: number) =>
    BOX.bottom - ((BOX.bottom - BOX.top) * ((logY ? Math.log(value) : value) - bottom)) / (top - bottom || 1);
  let labelled = Number.NEGATIVE_INFINITY;
  const isApart = (value: number): boolean => {
    if (place(value) - labelled < LABEL_WIDTH) return false;
    labelled = place(value);
    return true;
  };
  const used = { ours: 0, theirs: 0 };
  const colours = lines.map(({ isOurs }) => (isOurs ? OURS[used.ours++ % OURS.length] : THEIRS[used.theirs++ % THEIRS.length])!);
  const drawn = lines.flatMap(({ label, points, isOurs }, i) => {
    const path = points.map(([px, py], n) => `${n === 0 ? "M" : "L"}${at(place(px))} ${at(height(py))}`).join("");
    const stroke = `stroke="${colours[i]}" stroke-width="${isOurs ? 2.5 : 1.5}"`;
    const legend = BOX.top + 8 + 18 * i;
    return [
      `<path d="${path}" fill="none" ${stroke}/>`,
      ...points.map(([px, py]) => `<circle cx="${at(place(px))}" cy="${at(height(py))}" r="2.5" fill="${colours[i]}"/>`),
      `<path d="M436 ${legend}h16" ${stroke}/>`,
      text(458, legend + 4, label),
    ];
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" font-family="sans-serif" font-size="12" fill="#222">`,
    `<title>${escaped(title)}</title>`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>`,
    text(BOX.left, 20, `${title}: ${y}`, 'font-weight="bold"'),
    ...yTicks.flatMap((value) => [
      `<path d="M${BOX.left} ${at(height(value))}H${BOX.right}" stroke="#ddd"/>`,
      text(BOX.left - 6, height(value) + 4, value.toLocaleString("en-US"), 'text-anchor="end"'),
    ]),
    ...xs
      .filter(isApart)
      .map((value) =>
        text(place(value), BOX.bottom + 18, value.toLocaleString("en-US", { maximumFractionDigits: 6 }), 'text-anchor="middle"'),
      ),
    text((BOX.left + BOX.right) / 2, BOX.bottom + 38, x, 'text-anchor="middle"'),
    ...drawn,
    "</svg>\n",
  ].join("\n");
}

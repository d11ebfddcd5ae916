// The page's own script, as text: draws the charts with uPlot in the colours of the reader's theme, and in light ones for paper.

export const pageScript = `(() => {
"use strict";
document.documentElement.classList.add("js");
const charts = JSON.parse(document.getElementById("chart-data").textContent);
const themes = {
  light: { text: "#5b6370", grid: "#e6e8ec", colours: ["#2563eb", "#c2410c", "#15803d", "#9333ea", "#0e7490", "#be123c", "#a16207", "#4b5563"] },
  dark: { text: "#9aa4b2", grid: "#2a303a", colours: ["#60a5fa", "#fb923c", "#4ade80", "#c084fc", "#22d3ee", "#fb7185", "#facc15", "#9ca3af"] },
};
const several = new Set(charts.flatMap((chart) => chart.series.map((one) => one.run))).size > 1;
const grouped = (value) => Math.round(value).toLocaleString("en-US");
const short = (value, digits) => String(Number(value.toPrecision(digits)));
const exponential = (value, digits) => (value === 0 ? "0" : value.toExponential(digits).replace("e+", "e"));
const size = (value, digits) => {
  const unit = Math.min(4, Math.max(0, Math.floor(Math.log10(Math.max(1, value)) / 3)));
  return short(value / 1000 ** unit, digits) + " " + ["B", "kB", "MB", "GB", "TB"][unit];
};
const units = {
  plain: (value, digits) => short(value, digits),
  small: (value, digits) => exponential(value, Math.max(1, digits - 3)),
  whole: grouped,
  bytes: size,
};
const xText = (x) => (x === "rate" ? (value) => short(value, 3) : grouped);
const tickText = (x) => (tick) => (tick != null && (x === "rate" || Number.isInteger(tick)) ? xText(x)(tick) : "");
const dark = matchMedia("(prefers-color-scheme: dark)");
let drawn = [];

function series(one, unit, theme) {
  const colour = theme.colours[(several ? one.run : one.style === "dotted" ? 1 : 0) % theme.colours.length];
  const look = {
    faint: { stroke: colour + "55", width: 1, points: { show: false } },
    line: { stroke: colour, width: 1.75, points: { show: one.x.length === 1, size: 6, fill: colour } },
    dotted: { stroke: colour, width: 1.5, dash: several ? [5, 4] : undefined, points: { show: one.x.length < 60, size: 6, fill: colour } },
  }[one.style];
  return { label: one.label, spanGaps: true, value: (_, value) => (value == null ? "–" : unit(value, 5)), ...look };
}

function draw(theme, paper) {
  for (const { plot } of drawn) plot.destroy();
  drawn = charts.map((chart) => {
    const place = document.getElementById("chart-" + chart.id);
    const unit = units[chart.unit];
    const axis = { stroke: theme.text, grid: { stroke: theme.grid, width: 1 }, ticks: { stroke: theme.grid, width: 1, size: 5 }, font: "12px system-ui, sans-serif" };
    const height = chart.id === "loss" ? 300 : 190;
    const plot = new uPlot(
      {
        width: paper ? (chart.id === "loss" ? 680 : 330) : place.clientWidth,
        height,
        cursor: { sync: { key: chart.x || "steps" }, drag: { x: true, y: false } },
        scales: { x: chart.x === "rate" ? { time: false, distr: 3 } : { time: false } },
        axes: [
          { ...axis, size: 34, values: (_, ticks) => ticks.map(tickText(chart.x)) },
          { ...axis, size: 64, values: (_, ticks) => ticks.map((tick) => unit(tick, 4)) },
        ],
        series: [{ label: { rate: "learning rate", seconds: "seconds" }[chart.x] || "step", value: (_, value) => (value == null ? "–" : xText(chart.x)(value)) }, ...chart.series.map((one) => series(one, unit, theme))],
      },
      uPlot.join(chart.series.map((one) => [one.x, one.y])),
      place,
    );
    return { plot, place, height };
  });
}
const redraw = () => draw(dark.matches ? themes.dark : themes.light, false);
redraw();
dark.addEventListener("change", redraw);
addEventListener("beforeprint", () => draw(themes.light, true));
addEventListener("afterprint", redraw);
new ResizeObserver(() => {
  for (const { plot, place, height } of drawn) if (place.clientWidth !== plot.width) plot.setSize({ width: place.clientWidth, height });
}).observe(document.querySelector("main"));
})();
`;

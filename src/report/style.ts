// The page's looks: light or dark as the reader's system is, one column on a phone, plain on paper.

export const pageStyle = `
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1c2128; --weak: #5b6370; --line: #e0e3e8; --accent: #2563eb; --good: #15803d; --open: #a16207; --bad: #b91c1c; --warm: #f59e0b; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1216; --card: #171b21; --text: #e4e8ee; --weak: #9aa4b2; --line: #2a303a; --accent: #60a5fa; --good: #4ade80; --open: #facc15; --bad: #f87171; --warm: #d97706; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
header { margin: 0 0 16px; }
h2 { font-size: 18px; margin: 34px 0 10px; }
h3 { font-size: 15px; margin: 18px 0 4px; }
.lead { margin: 6px 0 0; color: var(--weak); overflow-wrap: anywhere; }
.status { font-weight: 600; } .good { color: var(--good); } .open { color: var(--open); } .bad { color: var(--bad); }
.note, figcaption small { color: var(--weak); font-size: 13px; margin: 2px 0 8px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(145px, 1fr)); gap: 10px; margin: 0; }
.tile, .card, figure { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.tile { padding: 10px 14px; }
.tile dt { color: var(--weak); font-size: 13px; } .tile dd { margin: 0; font-size: 17px; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.card { padding: 4px 14px; margin: 0 0 10px; }
.charts { display: grid; grid-template-columns: 1fr 1fr; gap: 10px; }
.charts figure:first-child { grid-column: 1 / -1; }
figure { margin: 0; padding: 12px 12px 6px; min-width: 0; }
figcaption { font-weight: 600; margin: 0 0 6px; } figcaption small { display: block; font-weight: 400; }
@media screen { .js figcaption small { display: none; } }
.chart { min-width: 0; } .u-legend { font-size: 12.5px !important; font-variant-numeric: tabular-nums; } .u-legend th { font-weight: 400 !important; } .u-legend tr > * { border: 0; padding: 2px 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); font-weight: 400; overflow-wrap: anywhere; }
tr:last-child > * { border-bottom: 0; } thead th { color: var(--weak); font-size: 13px; border-bottom: 1px solid var(--line) !important; }
.facts th[scope=row] { color: var(--weak); width: 210px; min-width: 120px; } .facts td { min-width: 140px; }
.facts .marked > * { font-weight: 600; color: var(--text); }
.numbers td, .numbers th { text-align: right; white-space: nowrap; }
.heatmap { width: auto; font-size: 12.5px; } .heatmap th { white-space: nowrap; padding: 2px 10px 2px 0; border: 0; } .heatmap thead th { padding: 2px 8px; text-align: center; border: 0 !important; }
.heatmap td { text-align: right; padding: 2px 8px; min-width: 62px; border: 1px solid var(--card); white-space: nowrap; }
.heat { background: color-mix(in srgb, var(--warm) calc(var(--heat) * 90%), transparent); }
.hot { color: #1c1303; }
blockquote, pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: 13.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; unicode-bidi: isolate; }
.sample th { width: 110px; color: var(--weak); }
details > summary { cursor: pointer; font-weight: 600; margin: 14px 0 8px; }
footer { color: var(--weak); font-size: 13px; margin-top: 34px; overflow-wrap: anywhere; }
@media (max-width: 700px) { main { padding: 18px 12px 36px; } .charts { grid-template-columns: 1fr; } .tiles { grid-template-columns: 1fr 1fr; } .facts th[scope=row] { width: 120px; min-width: 100px; } .sample th { width: 70px; } }
@media print {
  :root { color-scheme: light; --page: #fff; --card: #fff; --text: #000; --weak: #444; --line: #ccc; --accent: #2563eb; --good: #15803d; --open: #a16207; --bad: #b91c1c; --warm: #f59e0b; }
  main { max-width: none; padding: 0; } figure, .tile, tr, .sample { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .heat { print-color-adjust: exact; -webkit-print-color-adjust: exact; } .wide { overflow: visible; } .charts figure { overflow: hidden; }
}
`;

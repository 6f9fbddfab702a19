"""How the page looks: light and dark, on a phone, on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --text: #24292f; --quiet: #59636e; --line: #d8dee4; --raised: #f6f8fa; --accent: #0072b2;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #14181d; --text: #dde3ea; --quiet: #9aa5b1; --line: #303841; --raised: #1b2026; --accent: #58b0e6;
    --c24292f: #dde3ea; --c6e7781: #8b96a2; --cd8dee4: #2b323a; --c8c959f: #7d8792; --c0072b2: #3f9bd6;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 62rem; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
h1 { font-size: 1rem; font-weight: 600; color: var(--quiet); margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; font-weight: 600; margin: 0 0 .75rem; }
.lead { font-size: clamp(1.3rem, 3.2vw, 1.75rem); line-height: 1.35; margin: 0; text-wrap: balance; }
.tiles {
  list-style: none; margin: 2rem 0 0; padding: 0;
  display: flex; flex-wrap: wrap; gap: 1px;
  background: var(--line); border: 1px solid var(--line); border-radius: .5rem; overflow: hidden;
}
.tiles li {
  background: var(--page); padding: .9rem 1rem; flex: 1 1 9.5rem;
  display: flex; flex-direction: column;
}
.tiles strong { font-size: 1.45rem; font-weight: 600; line-height: 1.3; color: var(--accent); }
.what, .from { font-size: .85rem; color: var(--quiet); }
section, figure, details, footer { margin: 3rem 0 0; }
details + details { margin-top: .75rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th, td { white-space: nowrap; }
th { font-weight: inherit; }
thead th { color: var(--quiet); font-size: .85rem; vertical-align: bottom; }
tr.best { font-weight: 650; }
tr.dense { color: var(--quiet); }
table.long { width: auto; min-width: 24rem; margin-top: .5rem; font-size: .85rem; }
.long th, .long td { padding-top: .2rem; padding-bottom: .2rem; }
.note, figcaption { font-size: .85rem; color: var(--quiet); margin: .75rem 0 0; text-wrap: pretty; }
.note b { font-weight: 600; }
figure svg { display: block; width: 100%; min-width: 42rem; height: auto; }
figure svg text { font-family: inherit !important; }
summary { cursor: pointer; color: var(--quiet); font-size: .93rem; }
dl { margin: 0; font-size: .93rem; }
dt { margin-top: .75rem; }
dd { margin: .15rem 0 0; color: var(--quiet); overflow-wrap: anywhere; }
code { font: .88em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
pre {
  background: var(--raised); border-radius: .4rem; padding: .75rem 1rem; margin: 0;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
footer { border-top: 1px solid var(--line); padding-top: 2rem; font-size: .93rem; }
footer p { color: var(--quiet); margin: .75rem 0 0; }
@media print {
  main { max-width: none; padding: 0; }
  body { font-size: 10pt; }
  .tiles li { flex-basis: 6rem; padding: .6rem .7rem; }
  .tiles strong { font-size: 1.2rem; }
  section, figure, footer { margin-top: 1.5rem; break-inside: avoid; }
  figure svg { min-width: 0; }
  th, td { padding: .3rem .4rem; }
  table { font-size: 8.5pt; }
  details { display: none; }
}
"""

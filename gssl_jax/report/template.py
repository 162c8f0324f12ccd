"""The page itself: one `string.Template` with its style sheet. It loads nothing, neither script nor font nor picture.

Charts are white PNGs that dark mode inverts and turns back in hue; the card colour in dark mode is exactly that
inverted white (1 - .91). Pictures of images are transparent and left alone.
"""

from __future__ import annotations

from string import Template

CSS = """
:root { color-scheme: light dark; --page: #f6f5f2; --card: #ffffff; --ink: #23262b; --soft: #5f656e; --line: #e3e1dc;
  --blue: #0072b2; --orange: #b84d00; --grey: #8a8f98; --good: #00704f; --goodback: #e3f2ec; --bad: #a63c00;
  --badback: #fbe9df; --hint: #6b5600; --hintback: #f6efd6; --none: #4d535c; --noneback: #ecebe7; --track: #efeeea;
  --green: #009e73; --yellow: #c79100; }
@media (prefers-color-scheme: dark) { :root { --page: #0d0d0d; --card: #171717; --ink: #e6e4e0; --soft: #a3a6ab;
  --line: #2b2b2b; --blue: #56b4e9; --orange: #f0894a; --grey: #8a8f98; --good: #5fd0a4; --goodback: #12291f;
  --bad: #f7a072; --badback: #331a0d; --hint: #e2c04d; --hintback: #2b2410; --none: #b5b8bd; --noneback: #242424;
  --track: #262626; --green: #35b98f; --yellow: #d9a832; }
  img.chart { filter: invert(.91) hue-rotate(180deg); } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink); font: 1rem/1.6 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", "Noto Sans", "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums; }
main, header, footer { max-width: 62rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
.name { color: var(--soft); font-size: .9rem; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h1 { font-size: clamp(1.35rem, 1rem + 1.9vw, 2.1rem); line-height: 1.28; font-weight: 650; letter-spacing: -.01em;
  margin: .6rem 0 1rem; text-wrap: balance; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 0 0 .5rem; font-weight: 650; }
h3 { font-size: 1rem; margin: 0 0 .25rem; font-weight: 650; }
p { margin: 0 0 .75rem; max-width: 46rem; }
a { color: var(--blue); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; font-size: .9rem; margin: 1.5rem 0 0; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.5rem;
  margin: 1.25rem 0; }
section > :last-child { margin-bottom: 0; }
.badge { display: inline-block; border-radius: 99px; padding: .15rem .8rem; font-size: .85rem; font-weight: 600; }
.good { color: var(--good); background: var(--goodback); }
.bad, .alarm { color: var(--bad); background: var(--badback); }
.stopped { border-left: 4px solid var(--hint); padding-left: .9rem; }
.unclear, .hint { color: var(--hint); background: var(--hintback); }
.none { color: var(--none); background: var(--noneback); }
.soft, figcaption, caption { color: var(--soft); font-size: .9rem; line-height: 1.5; }
.bars { margin: 1.25rem 0 1.5rem; display: grid; grid-template-columns: max-content 1fr max-content;
  grid-auto-flow: row dense; gap: .45rem .9rem; align-items: center; }
.bars .track { grid-column: 2; position: relative; height: 1.05rem; background: var(--track); border-radius: 4px; }
.bars .bar { position: absolute; inset: 0 auto 0 0; border-radius: 4px; background: var(--grey); opacity: .85; }
.bars .bar.trained { background: var(--blue); }
.bars .bar.untrained { background: var(--orange); }
.bars .bar.started { background: var(--green); }
.bars .bar.refreshed { background: var(--yellow); }
.bars .span { position: absolute; top: 50%; height: 2px; margin-top: -1px; background: var(--ink); }
.bars .span::before, .bars .span::after { content: ""; position: absolute; top: -4px; height: 10px; width: 2px;
  background: var(--ink); }
.bars .span::before { left: 0; } .bars .span::after { right: 0; }
.bars .chance { position: absolute; top: -3px; bottom: -3px; width: 0; border-left: 2px dotted var(--ink); }
.bars b { font-weight: 650; grid-column: 3; text-align: right; }
#verdict h2 { display: inline-block; font-size: .95rem; font-weight: 600; color: var(--soft); margin: 0 .7rem 0 0; }
table { border-collapse: collapse; width: 100%; }
table + table { margin-top: 1.5rem; }
caption { text-align: left; padding-bottom: .6rem; }
th, td { text-align: right; padding: .5rem .5rem; border-top: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
thead th { border-top: 0; font-size: .9rem; color: var(--soft); font-weight: 600; }
tbody th { font-weight: 500; }
td small { display: block; white-space: nowrap; color: var(--soft); font-size: .8rem; line-height: 1.35; }
tbody th small { display: block; font-weight: 400; font-size: .8rem; line-height: 1.35; }
td.first { font-weight: 650; } td.first small { font-weight: 400; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .35rem 1.25rem; margin: .75rem 0 0;
  font-size: .95rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
ol.chain { list-style: none; padding: 0; margin: 1rem 0 0; display: flex; flex-wrap: wrap; gap: 1rem 2.2rem; }
ol.chain li { position: relative; background: var(--track); border-radius: 8px; padding: .6rem .9rem;
  overflow-wrap: anywhere; }
ol.chain li + li::before { content: "\u2192"; position: absolute; left: -1.65rem; top: .6rem; color: var(--soft); }
ol.chain small { display: block; color: var(--soft); font-size: .82rem; line-height: 1.45; }
.pair { display: grid; grid-template-columns: 1fr; gap: 1.75rem 2rem; margin-top: 1rem; }
@media (min-width: 46rem) { .pair { grid-template-columns: 1fr 1fr; } }
figure { margin: 0; min-width: 0; }
figure img { display: block; width: 100%; height: auto; }
figcaption { margin-top: .5rem; }
.columns { columns: 2 20rem; column-gap: 2rem; margin-top: 1rem; }
.columns figure { break-inside: avoid; padding-bottom: 1.75rem; }
.pictures > * { margin: 2.25rem 0 0; }
.pictures > div { margin-top: 1.25rem; }
.pictures > :first-child { margin-top: 1rem; }
.pictures img { max-width: 40rem; }
@media (min-width: 58rem) { .pictures figure { display: grid; grid-template: "image heading" auto "image caption" 1fr /
  40rem 1fr; column-gap: 2rem; } .pictures img { grid-area: image; } .pictures h3 { grid-area: heading; }
  .pictures figcaption { grid-area: caption; margin: 0; } }
.wide { overflow-x: auto; margin: 0 0 1.5rem; }
.wide th:first-child { min-width: 7.5rem; overflow-wrap: break-word; }
details + .wide { margin-top: 1.25rem; }
.wide td { min-width: 4.6rem; }
.wide thead th { vertical-align: bottom; }
th small { display: block; color: var(--soft); font-size: .8rem; line-height: 1.35; font-weight: 400; }
.study img { max-width: 40rem; }
.words th, .words td { text-align: left; }
.sheets { margin: 1rem 0; }
.sheets figure { overflow-x: auto; }
.sheets img.chart { min-width: 34rem; max-width: 46rem; }
.sheets img.picture { min-width: calc(3.6rem * var(--columns)); max-width: calc(7.6rem * var(--columns)); }
.sheets figcaption { position: sticky; left: 0; }
ul.findings { list-style: none; padding: 0; margin: .75rem 0 0; }
ul.findings li { padding: .9rem 0; border-top: 1px solid var(--line); }
ul.findings li:first-child { border-top: 0; padding-top: 0; }
ul.findings .badge { margin-right: .6rem; font-size: .78rem; padding: .05rem .6rem; }
ul.findings p { margin: .3rem 0 0; }
ul.findings + table { margin-top: 1rem; }
code, pre { font: .86em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { background: var(--track); padding: .1rem .35rem; border-radius: 4px; overflow-wrap: anywhere; }
pre { overflow-x: auto; background: var(--track); padding: 1rem; border-radius: 8px; margin: .75rem 0 0; }
summary { cursor: pointer; color: var(--blue); }
footer { color: var(--soft); font-size: .85rem; padding-bottom: 2.5rem; }
@media (max-width: 34rem) { main, header, footer { padding-left: .75rem; padding-right: .75rem; }
  section { padding: 1.1rem .9rem; } .bars { grid-template-columns: 1fr max-content; gap: .2rem .75rem; }
  .bars .track { grid-column: 1 / -1; margin-bottom: .5rem; } .bars b { grid-column: 2; }
  dl { grid-template-columns: 6.4rem 1fr; gap: .35rem .75rem; } th, td { padding: .45rem .3rem; }
  thead th { font-size: .8rem; } ol.chain { flex-direction: column; gap: 1.7rem; }
  ol.chain li + li::before { content: "\u2193"; left: .9rem; top: -1.65rem; } }
@media print { section { break-inside: avoid; border: 0; padding: 0; } nav { display: none; } }
"""

PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$css</style>
</head>
<body>
<header>
<p class="name">$name</p>
</header>
<main>
$sections
</main>
<footer>$footer</footer>
</body>
</html>
"""
)

SECTION = Template("""<section id="$id">\n<h2>$heading</h2>\n$body\n</section>""")

FIGURE = Template(
    """<figure id="figure-$name">$heading<img class="$kind" alt="$alt" src="data:image/png;base64,$data">"""
    """<figcaption>$caption</figcaption></figure>"""
)

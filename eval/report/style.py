"""The look of the report: one style sheet, light, dark and on paper, with the fonts that the reader has."""

STYLE = """
:root{color-scheme:light dark;--page:#fbfaf8;--card:#fff;--ink:#1d2327;--quiet:#5f6b73;--rule:#e1dfda;--band:#a9d3cf;
--keep:#2b7a78;--chance:#c0453f;--good:#12806a;--poor:#c0453f;
--m0:#5f6b73;--m1:#2b7a78;--m2:#c2571a;--m3:#7b4fa3;--m4:#2f5f9e;--m5:#a07400;--m6:#b03a6f}
@media (prefers-color-scheme:dark){:root{--page:#14181b;--card:#1c2226;--ink:#e6e8e9;--quiet:#9aa7af;--rule:#323b41;
--band:#2b5c59;--keep:#4fb0a8;--chance:#d9605a;--good:#1fb493;--poor:#e0736d;
--m0:#9aa7af;--m1:#4fb0a8;--m2:#e8935a;--m3:#c4a0e6;--m4:#8db8ee;--m5:#d9b13f;--m6:#e68ab3}}
@media print{:root{color-scheme:light;--page:#fff;--card:#fff;--ink:#111;--quiet:#555;--rule:#ccc;--band:#a9d3cf;
--keep:#2b7a78;--m0:#5f6b73;--m1:#2b7a78;--m2:#c2571a;--m3:#7b4fa3;--m4:#2f5f9e;--m5:#a07400;--m6:#b03a6f}
body{font-size:10.5pt}nav{display:none}main{max-width:none;padding:0}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);line-height:1.5;font-size:15px;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Liberation Sans",sans-serif}
main{max-width:1120px;margin:0 auto;padding:40px 28px 72px}
h1{font-size:15px;font-weight:600;color:var(--quiet);margin:0}
.headline{font-size:30px;line-height:1.2;letter-spacing:-.015em;font-weight:650;margin:4px 0 10px;text-wrap:balance;
overflow-wrap:anywhere}.headline b{color:var(--keep);font-weight:inherit}
h2{font-size:20px;letter-spacing:-.01em;margin:48px 0 4px;padding-top:14px;border-top:1px solid var(--rule)}
h3{font-size:15px;margin:26px 0 4px}p{margin:0 0 8px}.lede{max-width:48em}
a{color:inherit;text-decoration-color:var(--rule);text-underline-offset:3px}a:hover{text-decoration-color:currentColor}
.quiet{color:var(--quiet)}.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.note{border-left:3px solid var(--m2);padding:6px 12px;margin:10px 0;background:var(--card);max-width:60em;
overflow-wrap:anywhere}
nav{margin-top:16px;font-size:13.5px;display:flex;flex-wrap:wrap;gap:4px 16px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;margin-top:10px}
th{font-weight:500;font-size:12.5px;color:var(--quiet);text-align:left;vertical-align:bottom}
th.number{text-align:right}td,th{padding:4px 12px 4px 0}td{vertical-align:middle}
tr.main td{border-top:1px solid var(--rule);padding-top:8px}tr.main td.value{font-weight:650}
tr.side td{font-size:13.5px}tr.total td{border-top:2px solid var(--rule);font-weight:600;padding-top:8px}
td.name{min-width:11em;vertical-align:top}.tight{white-space:nowrap}h4{font-size:12.5px;margin:8px 0 0}
td.track-cell{width:34%;min-width:170px}
.track{position:relative;height:14px;border-radius:2px;background:color-mix(in srgb,var(--rule) 50%,transparent)}
.track i{position:absolute;top:0;height:100%;display:block}.track .ci{background:var(--band);border-radius:2px}
.track .value{width:3px;margin-left:-1.5px;background:var(--keep)}
.track .chance{width:0;border-left:2px dotted var(--chance)}
.key{font:11px ui-monospace,monospace;color:var(--quiet);overflow-wrap:anywhere}
.swatch{display:inline-block;width:14px;height:10px;margin:0 4px 0 12px;vertical-align:0}
.swatch.ci{background:var(--band)}.swatch.value{background:var(--keep);width:3px}
.swatch.chance{width:0;border-left:2px dotted var(--chance)}
details{font-size:13px}summary{cursor:pointer;color:var(--quiet);white-space:nowrap}
details.published{font-size:14px;margin-top:8px}details.published>summary{color:var(--ink);white-space:normal}
tr.record td{padding:0 0 6px}tr.record details[open]{padding:4px 0 12px}
dl{display:grid;grid-template-columns:minmax(120px,230px) minmax(0,1fr);gap:1px 16px;margin:6px 0 6px;font-size:12.5px}
dt{color:var(--quiet);overflow-wrap:anywhere}dd{margin:0;overflow-wrap:anywhere;font-family:ui-monospace,monospace;
font-size:12px}
.curves{width:100%;max-width:860px;height:auto;display:block;margin-top:8px}
.c-grid{stroke:var(--rule);fill:none}.c-axis{stroke:var(--quiet);fill:none}.c-tick{font-size:11.5px;fill:var(--quiet)}
.c-line{fill:none;stroke-width:2}.c-std{stroke-width:1.4;opacity:.55}.c-lead{fill:none;stroke-width:1;opacity:.6}
.c-name{font-size:12.5px;font-weight:600}.c-line.m0{stroke-dasharray:5 4}
.c-line.m0,.c-std.m0,.c-lead.m0{stroke:var(--m0)}.c-dot.m0,text.m0{fill:var(--m0)}
.c-line.m1,.c-std.m1,.c-lead.m1{stroke:var(--m1)}.c-dot.m1,text.m1{fill:var(--m1)}.c-line.m1{stroke-width:3.2}
.c-line.m2,.c-std.m2,.c-lead.m2{stroke:var(--m2)}.c-dot.m2,text.m2{fill:var(--m2)}
.c-line.m3,.c-std.m3,.c-lead.m3{stroke:var(--m3)}.c-dot.m3,text.m3{fill:var(--m3)}
.c-line.m4,.c-std.m4,.c-lead.m4{stroke:var(--m4)}.c-dot.m4,text.m4{fill:var(--m4)}
.c-line.m5,.c-std.m5,.c-lead.m5{stroke:var(--m5)}.c-dot.m5,text.m5{fill:var(--m5)}
.c-line.m6,.c-std.m6,.c-lead.m6{stroke:var(--m6)}.c-dot.m6,text.m6{fill:var(--m6)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:14px;margin-top:10px}
.ex{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:12px;font-size:13.5px;
break-inside:avoid;overflow-wrap:anywhere;display:flex;flex-direction:column;gap:8px}
.ex p{margin:0 0 2px}.ex img{display:block;max-width:100%;height:auto;border-radius:4px}
.ex ol{margin:0 0 4px;padding-left:1.4em}.ex.row{grid-column:1/-1}.asked{font-size:15px;font-weight:500}
.hits{display:flex;flex-wrap:wrap;gap:10px}
.hit{display:block;padding:4px;border-radius:6px;border:2px solid transparent}
.hit.right{border-color:var(--good)}b.right,li.right{color:var(--good)}b.wrong{color:var(--poor)}
li.right{font-weight:600}
footer{margin-top:56px;padding-top:12px;border-top:1px solid var(--rule);font-size:12.5px;color:var(--quiet)}
@media (max-width:820px){main{padding:24px 16px}.headline{font-size:24px}td.track-cell{min-width:110px}}
"""

"""The look of the report: one style sheet, light, dark and on paper, with the fonts that the reader has."""

STYLE = """
:root{color-scheme:light dark;--page:#fbfaf8;--card:#fff;--ink:#1d2327;--quiet:#5f6b73;--rule:#e1dfda;--keep:#2b7a78;
--took:#d9825b;--dead:#8a8f98;--object:#2f5f9e;--object-fill:#e8f0fa;--pill:#3b7a3f;--pill-fill:#e7f3e6;--act:#b3591a;
--act-fill:#fdf0e2;--tie:#7b4fa3;--off:#9aa0a6;--mark:#ffe08a;--mark-ink:#4a3500;--good:#12806a;--fair:#b07a00;--poor:#c0453f}
@media (prefers-color-scheme:dark){:root{--page:#14181b;--card:#1c2226;--ink:#e6e8e9;--quiet:#9aa7af;--rule:#323b41;
--keep:#4fb0a8;--took:#d08059;--dead:#7d858d;--object:#8db8ee;--object-fill:#20324a;--pill:#8ccb8d;--pill-fill:#213824;
--act:#f0a465;--act-fill:#3d2a19;--tie:#c4a0e6;--off:#737b82;--mark:#6b5410;--mark-ink:#ffeebd;--good:#1f9c82;
--fair:#c78d10;--poor:#d9605a}}
@media print{:root{color-scheme:light;--page:#fff;--card:#fff;--ink:#111;--quiet:#555;--rule:#ccc;--keep:#2b7a78;
--took:#d9825b;--dead:#8a8f98;--object:#2f5f9e;--object-fill:#e8f0fa;--pill:#3b7a3f;--pill-fill:#e7f3e6;--act:#b3591a;
--act-fill:#fdf0e2;--tie:#7b4fa3;--off:#9aa0a6;--mark:#ffe08a;--mark-ink:#4a3500;
--good:#12806a;--fair:#b07a00;--poor:#c0453f}
body{font-size:10.5pt}nav{display:none}main{max-width:none;padding:0}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);line-height:1.5;font-size:15px;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Liberation Sans",sans-serif}
main{max-width:1120px;margin:0 auto;padding:40px 28px 72px}
h1{font-size:15px;font-weight:600;color:var(--quiet);margin:0}
.headline{font-size:32px;line-height:1.2;letter-spacing:-.015em;font-weight:650;margin:4px 0 10px;
text-wrap:balance}.headline b{color:var(--keep);font-weight:inherit}
h2{font-size:20px;letter-spacing:-.01em;margin:52px 0 4px;padding-top:14px;border-top:1px solid var(--rule)}
h3{font-size:14px;margin:0 0 2px}p{margin:0 0 8px}a{color:inherit;text-decoration-color:var(--rule);
text-underline-offset:3px}a:hover{text-decoration-color:currentColor}
.quiet{color:var(--quiet)}.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.lede{max-width:46em}.note{border-left:3px solid var(--took);padding:6px 12px;margin:10px 0;background:var(--card);
overflow-wrap:anywhere}.note.wrong{border-color:var(--poor);font-weight:600}
nav{margin-top:16px;font-size:13.5px;display:flex;flex-wrap:wrap;gap:4px 16px}
nav .quiet{font-variant-numeric:tabular-nums}
table{border-collapse:collapse;width:100%}th{font-weight:500;font-size:12.5px;color:var(--quiet);text-align:left}
th.number{text-align:right}td,th{padding:5px 10px 5px 0}td{vertical-align:middle}
.split{display:grid;grid-template-columns:minmax(0,1fr) 250px;gap:36px;align-items:start;margin-top:16px}
.funnel td.bar{width:46%}.bar div{display:flex;height:16px;border-radius:2px;overflow:hidden}
.funnel .bar div{background:color-mix(in srgb,var(--rule) 45%,transparent)}
.bar i{display:block;height:100%}i.left,.key.left{background:var(--keep)}i.took,.key.took{background:var(--took)}
i.dead{background:var(--dead);border-radius:2px}.bar i{min-width:1px}.bar i[style^="width:0.000"]{display:none}
.key{display:inline-block;width:10px;height:10px;border-radius:2px;margin:0 5px 0 12px}.key.left{margin-left:0}
.funnel tr.total td{font-weight:600}.funnel tbody tr:last-child td{border-top:1px solid var(--rule)}
aside.dead{border-left:1px solid var(--rule);padding-left:20px;font-size:14px}aside .bar{width:38%}
dl{display:grid;grid-template-columns:170px minmax(0,1fr);gap:7px 18px;margin:12px 0 0;max-width:62em}
dt{font-weight:600}dd{margin:0}
.charts{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:32px;margin-top:16px}
figure{margin:0}.histogram svg{width:100%;height:auto;display:block}.histogram p{font-size:13px;min-height:3em}
.h-bar{fill:var(--keep)}.h-axis{stroke:var(--rule)}.h-count,.h-label{font-size:10.5px;fill:var(--quiet);
font-variant-numeric:tabular-nums}
.card{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:18px 20px;margin-top:14px;
display:grid;grid-template-columns:360px minmax(0,1fr);gap:16px 28px;break-inside:avoid;align-items:start}
.card>*{min-width:0}.caption{font-size:17px;line-height:1.4;font-weight:500;margin:0 0 8px;overflow-wrap:anywhere;
overflow:hidden}.parsed{font-size:13.5px;overflow-wrap:anywhere;overflow:hidden}
.label{font-size:12px;color:var(--quiet)}.facts{display:flex;flex-wrap:wrap;gap:2px 18px;font-size:13px;margin:0 0 8px;
color:var(--quiet)}.facts b{color:var(--ink);font-variant-numeric:tabular-nums;font-weight:600}
.message{font-size:13.5px;border-left:3px solid var(--dead);padding:2px 10px;overflow-wrap:anywhere}
mark{background:var(--mark);color:var(--mark-ink);padding:1px 0;box-decoration-break:clone;
-webkit-box-decoration-break:clone}
.t-object{text-decoration:underline 2px var(--object);text-underline-offset:4px}
.t-action{text-decoration:underline 2px var(--act);text-underline-offset:4px}
.t-off{text-decoration:underline 2px dotted var(--off);text-underline-offset:4px}
.hidden-char{font:600 10px ui-monospace,monospace;border:1px solid var(--poor);color:var(--poor);border-radius:3px;
padding:0 3px;margin:0 1px;vertical-align:1px;white-space:nowrap}
.uid{font:11px ui-monospace,monospace;color:var(--quiet);overflow-wrap:anywhere}
.wide{overflow-x:auto;padding-bottom:2px}.graph{display:block;max-width:100%;height:auto}.photo{display:block;max-width:100%;height:auto;
border-radius:4px}.no-picture{border:1px dashed var(--off);border-radius:4px;padding:22px 18px;font-size:13.5px;
color:var(--quiet);overflow-wrap:anywhere}
.picture .quiet{font-size:13px;margin:8px 0 0}
ol.spotted{list-style:none;margin:8px 0 0;padding:0;font-size:13.5px}
ol.spotted li{padding:1px 0;overflow-wrap:anywhere}
ol.spotted .number{color:var(--quiet);margin-left:4px}.chip{display:inline-block;min-width:18px;
height:18px;border-radius:9px;
color:#fff;font-size:10.5px;line-height:18px;text-align:center;margin-right:4px;padding:0 4px}
.chip.good{background:var(--good)}.chip.fair{background:var(--fair)}.chip.poor{background:var(--poor)}
.photo polygon{fill-opacity:.16;stroke-width:2;vector-effect:non-scaling-stroke}.photo text{fill:#fff;font-weight:600}
.photo .casing{fill:none;stroke:#fff;stroke-opacity:.75;stroke-width:4.5}
.photo .good{fill:var(--good)}.photo .good .line{stroke:var(--good)}
.photo .fair{fill:var(--fair)}.photo .fair .line{stroke:var(--fair);stroke-dasharray:6 3}
.photo .poor{fill:var(--poor)}.photo .poor .line{stroke:var(--poor);stroke-dasharray:2 3}
.graph text{unicode-bidi:isolate}.g-text{font-size:13px;fill:var(--ink)}.g-small{font-size:11px;fill:var(--pill)}
.g-score{font-size:10.5px;fill:var(--act);font-variant-numeric:tabular-nums}
.g-object{fill:var(--object-fill);stroke:var(--object);stroke-width:1.3}.g-pill{fill:var(--pill-fill)}
.g-stem{stroke:var(--pill);fill:none;opacity:.55}
.g-action ellipse{fill:var(--act-fill);stroke:var(--act);stroke-width:1.3}
.g-action.off ellipse{fill:none;stroke:var(--off);stroke-dasharray:4 3}.g-action.off text{fill:var(--off)}
.g-action.off .g-text{text-decoration:line-through}
path.g-role{fill:none;stroke:var(--act);stroke-width:1.2}path.g-role.off{stroke:var(--off);stroke-dasharray:4 3}
path.g-role.tip{fill:var(--act);stroke:none}path.g-role.off.tip{fill:var(--off)}
path.g-relation{fill:none;stroke:var(--tie);stroke-width:1.2}path.g-relation.tip{fill:var(--tie);stroke:none}
.g-label{font-size:11px;paint-order:stroke;stroke:var(--card);stroke-width:4px;stroke-linejoin:round}
text.g-role{fill:var(--act)}text.g-role.off{fill:var(--off)}text.g-relation{fill:var(--tie)}
footer{margin-top:56px;padding-top:12px;border-top:1px solid var(--rule);font-size:12.5px;color:var(--quiet)}
@media (max-width:820px){.split,.charts,.card,dl{grid-template-columns:minmax(0,1fr)}.headline{font-size:25px}
main{padding:24px 16px}.histogram p{min-height:0}}
"""

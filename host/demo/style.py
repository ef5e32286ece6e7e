"""Style sheet of the demo's page."""

STYLE = """
:root { color-scheme: light dark;
  --ground: light-dark(#fbfaf8, #15161a); --panel: light-dark(#ffffff, #1d1f25); --ink: light-dark(#1c1d21, #e9e7e2);
  --soft: light-dark(#6a6c75, #9a9ca6); --rule: light-dark(#e4e1db, #2e3139); --good: light-dark(#14713d, #6fd39b);
  --bad: light-dark(#b3261e, #ff8a80); --bar: light-dark(#f0d9c4, #4a3726);
  --mac: light-dark(#b4530a, #f2a35c); --check: light-dark(#3b6fb6, #7fb0f5); --memory: light-dark(#b9b6ae, #565963);
  --leakage: light-dark(#7a5ba6, #b79be0); }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 56px 24px 80px; }
h1 { font-size: 34px; line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 10px; font-weight: 650; }
h2 { font-size: 21px; letter-spacing: -0.01em; margin: 56px 0 6px; font-weight: 650; }
h3 { font-size: 17px; margin: 0; font-weight: 640; }
p { margin: 0 0 14px; max-width: 46em; } .soft { color: var(--soft); }
.verdict { display: inline-block; margin: 14px 0 22px; padding: 7px 14px; border-radius: 999px; font-weight: 600;
  font-size: 15px; border: 1.5px solid currentColor; max-width: none; }
.good { color: var(--good); } .bad { color: var(--bad); }
.verdict.bad { border-radius: 10px; }
.scroll { overflow-x: auto; }
.run { background: var(--panel); border: 1px solid var(--rule); border-radius: 14px; padding: 18px 20px 16px;
  margin: 0 0 18px; }
.run header { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 2px 20px; align-items: baseline;
  margin-bottom: 12px; } .run header span { color: var(--soft); font-size: 14px;
  font-variant-numeric: tabular-nums; }
.pictures { display: grid; grid-template-columns: repeat(10, minmax(56px, 1fr)); gap: 8px; }
figure { margin: 0; } img { display: block; image-rendering: pixelated; border-radius: 6px; width: 100%;
  aspect-ratio: 1; background: #000; }
figcaption { font-size: 12.5px; text-align: center; padding-top: 3px; color: var(--soft); white-space: nowrap;
  font-variant-numeric: tabular-nums; } figcaption b { font-weight: 640; }
.facts { display: grid; grid-template-columns: repeat(8, 1fr); gap: 10px 16px; margin: 16px 0 0; }
@media (max-width: 940px) { .facts { grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); } }
.facts b { display: block; font-size: 19px; letter-spacing: -0.01em; font-weight: 620;
  font-variant-numeric: tabular-nums; white-space: nowrap; } .facts span { color: var(--soft); font-size: 13px;
  display: block; line-height: 1.35; }
.stack { display: flex; height: 12px; border-radius: 3px; overflow: hidden; }
.stack i { display: block; height: 100%; } i.mac { background: var(--mac); } i.check { background: var(--check); }
i.memory { background: var(--memory); } i.leakage { background: var(--leakage); }
.energy { border-collapse: collapse; width: 100%; min-width: 760px; font-size: 14px;
  font-variant-numeric: tabular-nums; }
.energy th { text-align: right; font-weight: 600; padding: 8px 10px; border-bottom: 1.5px solid var(--ink);
  white-space: nowrap; } .energy td { text-align: right; padding: 8px 10px; border-bottom: 1px solid var(--rule);
  white-space: nowrap; } .energy th:first-child, .energy td:first-child { text-align: left; padding-left: 0; }
.energy .bar { width: 17%; text-align: left; } .energy .bar:last-child { padding-right: 0; }
.energy th i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; }
.energy small { color: var(--soft); font-size: 12.5px; }
.strip { display: grid; grid-template-columns: 92px repeat(var(--steps), minmax(44px, 76px)); gap: 8px;
  align-items: center; margin: 12px 0 0; font-size: 13.5px; }
.shared { display: grid; grid-template-columns: 112px 1fr; gap: 20px; align-items: center; }
.legend { font-size: 13.5px; max-width: none; color: var(--soft); margin: 0 0 12px; }
.legend svg { vertical-align: -1px; }
@media (max-width: 700px) { .shared { grid-template-columns: 1fr; } .shared figure { max-width: 112px; } }
details { margin-top: 40px; border-top: 1px solid var(--rule); padding-top: 14px; }
details + details { margin-top: 14px; } details > p { margin-top: 12px; }
summary { cursor: pointer; font-weight: 640; } summary span { color: var(--soft); font-weight: 400; }
table.layers { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
.layers th { text-align: right; font-weight: 600; padding: 8px 10px; border-bottom: 1.5px solid var(--ink);
  white-space: nowrap; } .layers td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--rule);
  white-space: nowrap; } .layers th:first-child, .layers td:first-child { text-align: left; padding-left: 0; }
.layers td:first-child { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: 12.5px; }
.layers tfoot td { font-weight: 650; border-bottom: 0; border-top: 1.5px solid var(--ink); }
.meter { background: linear-gradient(to right, var(--bar) var(--share), transparent var(--share)); }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 2px 28px; margin: 12px 0 0;
  font-size: 14px; } dl div { display: flex; justify-content: space-between; border-bottom: 1px solid var(--rule);
  padding: 4px 0; gap: 16px; } dt { color: var(--soft); } dd { margin: 0; font-variant-numeric: tabular-nums;
  text-align: right; }
"""

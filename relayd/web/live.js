// Draws the rates on the screen Now, and again whenever its figures have come anew.
"use strict";
(() => {
  const place = document.getElementById("plot");
  if (!place) return;
  const names = ["accepted", "refused", "delivered", "deferred", "bounced"];
  const dashes = [[], [2, 3], [8, 4], [12, 3, 2, 3], [4, 4]];
  let plot = null;

  const said = () => JSON.parse(document.getElementById("series").dataset.rates);
  const colour = (name) => getComputedStyle(place).getPropertyValue(`--${name}`).trim();
  const axis = () => ({ stroke: colour("faint"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line") } });

  const options = () => ({
    width: place.clientWidth,
    height: 220,
    legend: { show: false },
    cursor: { show: false },
    scales: { y: { range: (_, least, most) => [0, Math.max(most, 1) * 1.1] } },
    axes: [axis(), { ...axis(), size: 60 }],
    series: [{}, ...names.map((name, at) => ({
      label: name, stroke: colour(name), width: 2, dash: dashes[at], points: { show: false },
    }))],
  });

  const draw = () => {
    const figures = said();
    if (figures[0].length < 2) return;
    place.parentElement.hidden = false;
    if (plot) plot.destroy();
    plot = new uPlot(options(), figures, place);
  };

  document.addEventListener("htmx:afterSwap", draw);
  window.addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();

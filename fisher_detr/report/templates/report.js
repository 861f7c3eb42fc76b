// Draws every chart with the colours of the page, and again when they change.
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const specs = [...document.querySelectorAll("script[data-chart]")].map((element) => ({
    target: document.getElementById(`chart-${element.dataset.chart}`),
    figure: JSON.parse(element.textContent),
  }));

  function themed(layout) {
    const style = getComputedStyle(root);
    const [ink, line, panel] = ["--ink", "--line", "--panel"].map((name) => style.getPropertyValue(name).trim());
    const made = structuredClone(layout);
    made.font = { ...made.font, color: ink, family: "system-ui, sans-serif", size: 12 };
    made.hoverlabel = { ...made.hoverlabel, bgcolor: panel, bordercolor: line, font: { color: ink } };
    for (const name of Object.keys(made).filter((key) => /^[xy]axis\d*$/.test(key))) {
      made[name] = { ...made[name], gridcolor: line, linecolor: line, tickcolor: line };
    }
    made.autosize = true;
    return made;
  }

  // Black is the ink of a light page.
  function inked(data) {
    const ink = getComputedStyle(root).getPropertyValue("--ink").trim();
    return JSON.parse(JSON.stringify(data).replaceAll('"#000000"', JSON.stringify(ink)));
  }

  const options = {
    responsive: true,
    displaylogo: false,
    displayModeBar: matchMedia("(hover: hover) and (min-width: 40rem)").matches ? "hover" : false,
  };

  async function draw() {
    for (const { target, figure } of specs) {
      await Plotly.react(target, inked(figure.data), themed(figure.layout), options);
    }
    root.dataset.charts = String(specs.length);
  }

  document.getElementById("theme").addEventListener("click", () => {
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
    root.dataset.theme = isDark ? "light" : "dark";
    draw();
  });
  dark.addEventListener("change", draw);
  draw();
})();

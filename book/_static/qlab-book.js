// What makes the static pages alive offline: local paths for widgets, and plotly figures drawn when seen.
(() => {
  const vendor = new URL("vendor/", document.currentScript.src).href;
  window.require ??= { baseUrl: vendor + "widgets" }; // read by require.js, which loads after this file

  let loading;
  const loadPlotly = () =>
    (loading ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = vendor + "plotly.min.js";
      script.onload = () => resolve(window.Plotly);
      script.onerror = () => reject(new Error(`could not load ${script.src}`));
      document.head.append(script);
    }));

  // The figure's own template in the page's font and colours: a template reaches every axis, and gives way to
  // whatever the figure chose for itself.
  function themed(template = {}) {
    const page = getComputedStyle(document.body);
    const own = template.layout ?? {};
    const font = { ...own.font, family: page.fontFamily, color: page.getPropertyValue("--pst-color-text-base").trim() };
    const line = page.getPropertyValue("--qlab-hairline").trim();
    const axis = (name) => ({ ...own[name], gridcolor: line, zerolinecolor: line });
    const clear = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
    return { ...template, layout: { ...own, ...clear, font, xaxis: axis("xaxis"), yaxis: axis("yaxis") } };
  }

  async function draw(holder) {
    const figure = JSON.parse(holder.querySelector("script").textContent);
    const Plotly = await loadPlotly();
    const layout = { ...figure.layout, template: themed(figure.layout?.template) };
    const config = { responsive: true, displaylogo: false, ...figure.config };
    await Plotly.newPlot(holder, figure.data, layout, config);
    if (figure.frames) await Plotly.addFrames(holder, figure.frames);
    holder.dataset.drawn = "true";
  }

  function drawWhenSeen(holders) {
    const observer = new IntersectionObserver(
      (entries) =>
        entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
          observer.unobserve(entry.target);
          draw(entry.target);
        }),
      { rootMargin: "400px" },
    );
    holders.forEach((holder) => observer.observe(holder));
  }

  function followTheme() {
    const repaint = () =>
      document.querySelectorAll(".qlab-plotly[data-drawn]").forEach((holder) => {
        window.Plotly.relayout(holder, { template: themed(holder.layout.template) });
      });
    new MutationObserver(repaint).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  }

  addEventListener("DOMContentLoaded", () => {
    drawWhenSeen(document.querySelectorAll(".qlab-plotly"));
    followTheme();
  });
})();

// What makes the static pages alive offline: local paths for widgets, and plotly figures drawn when seen.
(() => {
  const vendor = new URL("vendor/", document.currentScript.src).href;
  window.require ??= { baseUrl: vendor + "widgets" }; // read by require.js, which loads after this file

  const LEGEND = 29; // pixels: a legend of one line, for which a committed margin has room

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

  const pen = document.createElement("canvas").getContext("2d");
  const fits = (text, { size, family }, width) => {
    pen.font = `${size}px ${family}`;
    return pen.measureText(text).width <= width;
  };

  function broken(text, font, width) {
    const lines = [];
    for (const word of text.split(/ |<br>/)) {
      const longer = `${lines.at(-1)} ${word}`;
      if (lines.length && fits(longer, font, width)) lines.splice(-1, 1, longer);
      else lines.push(word);
    }
    return lines;
  }

  // Titles and captions are committed for a wide column. Where one is too long for the room beside the axis labels, both
  // begin at the figure's edge and take more lines; the margin grows by these and by more lines of a legend on top.
  async function fit(Plotly, holder, { title, margin, height, template }) {
    const { _size: plot, title: { font, subtitle } } = holder._fullLayout, width = holder.clientWidth;
    const texts = [title.text, title.subtitle.text], fonts = [font, subtitle.font];
    const committed = texts.map((text) => text.split("<br>"));
    const beside = committed.every((lines, i) => lines.every((line) => fits(line, fonts[i], width - plot.l)));
    const lines = beside ? committed : texts.map((text, i) => broken(text, fonts[i], width));
    const [forTitle, forCaption] = fonts.map(({ size }, i) => 1.3 * size * (lines[i].length - committed[i].length));
    const grown = (by) => ({ "margin.t": margin.t + by, height: height + by, autosize: true });
    await Plotly.relayout(holder, {
      "title.text": lines[0].join("<br>"), "title.subtitle.text": lines[1].join("<br>"), "title.xref": beside ? "paper" : "container",
      "title.pad.t": template.layout.title.pad.t + forTitle / 2, // plotly grows a title up and down
      ...grown(forTitle + forCaption),
    });
    const { legend } = holder._fullLayout; // as high as it is at this width
    if (legend?.y !== 1 || legend.yref !== "paper") return;
    const more = holder.querySelector(".legend").getBoundingClientRect().height - LEGEND;
    if (more > 0) await Plotly.relayout(holder, grown(forTitle + forCaption + more));
  }

  async function draw(holder) {
    const figure = JSON.parse(holder.querySelector("script").textContent);
    const Plotly = await loadPlotly();
    const committed = structuredClone(figure.layout);
    const layout = { ...figure.layout, template: themed(figure.layout?.template) };
    const tools = matchMedia("(hover: none)").matches ? { displayModeBar: false } : {}; // a tap would lay them over the title
    const config = { responsive: true, displaylogo: false, ...tools, ...figure.config };
    await Plotly.newPlot(holder, figure.data, layout, config);
    if (figure.frames) await Plotly.addFrames(holder, figure.frames);
    let fitted = 0;
    const refit = async () => {
      if (holder.clientWidth !== fitted) {
        fitted = holder.clientWidth;
        await fit(Plotly, holder, committed);
      }
    };
    await refit();
    new ResizeObserver(refit).observe(holder);
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

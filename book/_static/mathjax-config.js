// MathJax 4 from _static/vendor. Read by book/conf.py and put into each page that has math.
window.MathJax = {
  // Sphinx marks math by class; output_area is where ipywidgets puts formulas.
  options: { processHtmlClass: "tex2jax_process|mathjax_process|math|output_area" },
  loader: { paths: { "mathjax-newcm": "[mathjax]/../mathjax-newcm-font" } },
  output: { fontPath: "[mathjax]/../mathjax-newcm-font", displayOverflow: "scroll" },
  startup: {
    ready() {
      MathJax.startup.defaultReady();
      // ipywidgets 8 still speaks to MathJax 2's queue: ["Typeset", hub, element].
      MathJax.Hub = {
        Queue(job) {
          if (job?.[2]) MathJax.startup.promise.then(() => MathJax.typesetPromise([job[2]]));
        },
      };
    },
  },
};

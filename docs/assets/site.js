// What the theme leaves out: the region with a copy button of each code block gets a name of its
// own, and code that scrolls sideways can be reached by keyboard before it has been scrolled to.
(() => {
  const mend = () => {
    document.querySelectorAll(".md-code__nav").forEach((each, at) => {
      each.setAttribute("aria-label", `Code ${at + 1}`);
    });
    document.querySelectorAll("pre > code:not([tabindex])").forEach((each) => {
      if (each.scrollWidth > each.clientWidth) each.setAttribute("tabindex", "0");
    });
  };
  new MutationObserver(mend).observe(document.documentElement, { childList: true, subtree: true });
  window.addEventListener("load", mend);
  window.addEventListener("resize", mend);
})();

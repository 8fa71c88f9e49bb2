(() => {
  // Values under the pointer, and zoom. Everything is a text node or a property: nothing is parsed.
  const store = document.getElementById("marks");
  if (!store) return;
  const marks = JSON.parse(store.textContent);
  const NEAR = 28;
  const TOGETHER = 3;
  const LISTED = 4;
  const MOST = 8;
  const resets = [];

  function make(name, className, parent) {
    const made = document.createElement(name);
    made.className = className;
    made.hidden = true;
    parent.append(made);
    return made;
  }

  for (const frame of document.querySelectorAll(".frame")) {
    const sheet = frame.firstElementChild;
    const tools = frame.nextElementSibling;
    const [larger, smaller] = tools.querySelectorAll("button");
    const spoken = tools.querySelector("output");
    const points = [...marks[frame.dataset.figure]].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    const ring = make("span", "ring", sheet);
    const told = make("span", "told", sheet);
    told.setAttribute("aria-hidden", "true");
    let scale = 1;
    let at = -1;
    let held = null;

    function point(index) {
      at = index;
      ring.hidden = told.hidden = index < 0;
      if (index < 0) return;
      const [x, y] = points[index];
      ring.style.left = told.style.left = `${100 * x}%`;
      ring.style.top = told.style.top = `${100 * y}%`;
      // Towards the middle, so that it stays within the figure.
      told.style.translate = `${x > 0.5 ? "calc(-100% - 10px)" : "10px"} ${y > 0.5 ? "calc(-100% - 10px)" : "10px"}`;
      told.textContent = words(index);
    }

    // What lies on the same spot is named together.
    function words(index) {
      const [x, y] = points[index];
      const here = points.filter((each) => Math.hypot((each[0] - x) * sheet.clientWidth, (each[1] - y) * sheet.clientHeight) < TOGETHER);
      const more = here.length > LISTED ? [`and ${here.length - LISTED} more`] : [];
      return [...here.slice(0, LISTED).map((each) => each[2]), ...more].join("\n");
    }

    function nearest(event) {
      const box = sheet.getBoundingClientRect();
      let [best, distance] = [-1, NEAR];
      points.forEach(([x, y], index) => {
        const far = Math.hypot(box.left + x * box.width - event.clientX, box.top + y * box.height - event.clientY);
        if (far < distance) [best, distance] = [index, far];
      });
      return best;
    }

    // What is under (x, y), in pixels of the frame, stays there.
    function zoom(to, x = frame.clientWidth / 2, y = frame.clientHeight / 2) {
      const next = Math.min(MOST, Math.max(1, to));
      if (scale === 1 && next > 1) frame.style.height = `${frame.clientHeight}px`;
      const grown = next / scale;
      const [left, top] = [(frame.scrollLeft + x) * grown - x, (frame.scrollTop + y) * grown - y];
      scale = next;
      sheet.style.width = `${100 * scale}%`;
      if (scale === 1) frame.style.height = "";
      frame.scrollTo(left, top);
      frame.classList.toggle("close", scale > 1);
      larger.disabled = scale >= MOST;
      smaller.disabled = scale <= 1;
    }

    function step(by) {
      if (!points.length) return;
      point((Math.max(at, by > 0 ? -1 : 0) + by + points.length) % points.length);
      const [x, y] = points[at];
      spoken.textContent = points[at][2];
      frame.scrollTo(x * sheet.clientWidth - frame.clientWidth / 2, y * sheet.clientHeight - frame.clientHeight / 2);
    }

    const keys = {
      ArrowRight: () => step(1), ArrowLeft: () => step(-1), Escape: () => { point(-1); zoom(1); },
      "+": () => zoom(1.5 * scale), "=": () => zoom(1.5 * scale), "-": () => zoom(scale / 1.5),
    };
    frame.tabIndex = 0;
    frame.setAttribute("role", "region");
    frame.addEventListener("keydown", (event) => {
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    });
    frame.addEventListener("pointermove", (event) => {
      if (held) frame.scrollTo(held.left - event.clientX + held.x, held.top - event.clientY + held.y);
      else point(nearest(event));
    });
    frame.addEventListener("pointerdown", (event) => {
      point(nearest(event));
      if (event.pointerType !== "mouse" || event.button !== 0 || scale === 1) return;
      held = { x: event.clientX, y: event.clientY, left: frame.scrollLeft, top: frame.scrollTop };
      frame.setPointerCapture(event.pointerId);
    });
    for (const end of ["pointerup", "pointercancel"]) frame.addEventListener(end, () => { held = null; });
    frame.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") point(-1); });
    frame.addEventListener("dragstart", (event) => event.preventDefault());
    function within(event) {
      const box = frame.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    }
    frame.addEventListener("dblclick", (event) => zoom(2 * scale, ...within(event)));
    frame.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      zoom(scale * Math.exp(-event.deltaY / 200), ...within(event));
    }, { passive: false });
    larger.addEventListener("click", () => zoom(1.5 * scale));
    smaller.addEventListener("click", () => zoom(scale / 1.5));
    zoom(1);
    resets.push(() => { point(-1); zoom(1); });
  }
  for (const tools of document.querySelectorAll(".zoom")) tools.hidden = false;
  window.addEventListener("beforeprint", () => { for (const reset of resets) reset(); });
})();

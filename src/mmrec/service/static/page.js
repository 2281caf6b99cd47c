// Forms with `data-into` show their result in that element as soon as an input changes.
// Without this script they are plain forms that load a new page.
for (const form of document.querySelectorAll("form[data-into]")) {
  const into = document.getElementById(form.dataset.into);
  let timer, latest;

  const show = async () => {
    const url = `${form.getAttribute("action")}?${new URLSearchParams(new FormData(form))}`;
    latest?.abort();
    latest = new AbortController();
    into.setAttribute("aria-busy", "true");
    try {
      const response = await fetch(url, { headers: { "X-Fragment": "list" }, signal: latest.signal });
      if (!response.ok) throw new Error(response.statusText);
      into.innerHTML = await response.text();
      history.replaceState(null, "", url);
    } catch (error) {
      if (error.name === "AbortError") return;
      into.textContent = "The service does not respond. Try again later.";
    }
    into.removeAttribute("aria-busy");
  };

  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(show, 250);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    show();
  });
}

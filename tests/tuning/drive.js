// Uses the page of crf-tune as a person would, and leaves what it saw in data-report of the body.
(async () => {
  const get = (id) => document.getElementById(id);
  const rest = (ms) => new Promise((done) => setTimeout(done, ms));
  const until = async (what) => {
    while (!what()) await rest(10);
  };
  const shown = (part) => document.body.dataset.shown === "full"
    && get("text").textContent.includes(part);
  const set = (id, value, event) => {
    get(id).value = value;
    get(id).dispatchEvent(new Event(event));
  };
  const report = {};
  const keep = (name) => {
    report[name] = {
      state: get("state").textContent,
      bad: get("state").classList.contains("bad"),
      text: get("text").textContent,
      preset: get("preset").value,
      bi_w: get("bi_w").value,
      labels: get("labels").src,
      borders: get("borders").src,
      marginals: get("marginals").src,
      legend: get("legend").textContent,
    };
  };
  await until(() => shown("bi_w=5,"));
  keep("start");
  for (let value = 6; value <= 25; value += 1) {
    set("bi_w-slider", value, "input");
    await rest(5);
  }
  await until(() => shown("bi_w=25,"));
  keep("dragged");
  set("pos_xy_std", "-1", "input");
  await until(() => get("state").classList.contains("bad"));
  keep("refused");
  set("preset", "deeplab_v2_vgg16", "change");
  await until(() => shown("bi_w=4, bi_xy_std=65,"));
  keep("preset");
  set("label", "12", "change");
  const before = get("marginals").src;
  await until(() => get("marginals").src !== before && shown("bi_w=4, bi_xy_std=65,"));
  keep("label");
  get("copy-command").click();
  await rest(20);
  keep("command");
  get("copy-pydensecrf").click();
  await rest(20);
  keep("pydensecrf");
  document.body.dataset.report = JSON.stringify(report);
})();

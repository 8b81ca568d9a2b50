// Independent transport of an exported plan through a voxel phantom with Geant4, for the comparison in
// benchmarks/monte_carlo.py, which writes the case and reads what this writes; docs/howto/monte_carlo.md says how to build it.
//
// Usage: transport CASE_FOLDER [bic|qmd]. The folder holds case.txt (grid, materials, spots; see `write_monte_carlo` in
// ionrt/plan/phase_space.py for the columns), voxels.raw (uint16 material index, z slowest). It writes scores.raw: float64 volumes dose_to_water,
// its square summed over batches, dose of primaries, dose x LET of all charged particles, dose x LET of the primaries; and
// crossings.txt: particles by charge that cross planes at given depths.
//
// Physics without data packages: standard ionisation with I from the case, Urban multiple scattering, binary (light-ion) cascade
// or QMD, Chips elastic of protons, Glauber-Gribov cross sections. Electrons are not followed (their energy is deposited where
// they are made), neutrons and photons are dropped where they are made. Dose to water: energy / (volume * stopping-power ratio).
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "CLHEP/Random/Randomize.h"
#include "G4Alpha.hh"
#include "G4BGGNucleonElasticXS.hh"
#include "G4BGGNucleonInelasticXS.hh"
#include "G4BinaryCascade.hh"
#include "G4BinaryLightIonReaction.hh"
#include "G4Box.hh"
#include "G4ChipsElasticModel.hh"
#include "G4ComponentGGNuclNuclXsc.hh"
#include "G4CrossSectionInelastic.hh"
#include "G4Deuteron.hh"
#include "G4Electron.hh"
#include "G4EmCalculator.hh"
#include "G4EmParameters.hh"
#include "G4Gamma.hh"
#include "G4GenericIon.hh"
#include "G4HadronElasticProcess.hh"
#include "G4HadronInelasticProcess.hh"
#include "G4He3.hh"
#include "G4IonConstructor.hh"
#include "G4BaryonConstructor.hh"
#include "G4BosonConstructor.hh"
#include "G4LeptonConstructor.hh"
#include "G4MesonConstructor.hh"
#include "G4ShortLivedConstructor.hh"
#include "G4IonTable.hh"
#include "G4LogicalVolume.hh"
#include "G4Material.hh"
#include "G4NistManager.hh"
#include "G4ParticleGun.hh"
#include "G4PhysicalConstants.hh"
#include "G4ProcessManager.hh"
#include "G4Proton.hh"
#include "G4PVParameterised.hh"
#include "G4PVPlacement.hh"
#include "G4PVReplica.hh"
#include "G4QMDReaction.hh"
#include "G4RunManager.hh"
#include "G4Step.hh"
#include "G4SystemOfUnits.hh"
#include "G4Track.hh"
#include "G4Triton.hh"
#include "G4UserStackingAction.hh"
#include "G4UserSteppingAction.hh"
#include "G4VNestedParameterisation.hh"
#include "G4VUserDetectorConstruction.hh"
#include "G4VUserPrimaryGeneratorAction.hh"
#include "G4VUserPhysicsList.hh"
#include "G4hIonisation.hh"
#include "G4hMultipleScattering.hh"
#include "G4ionIonisation.hh"

struct Spot {
  double u, v, energy, spread, var0, var1, var2, weight;
};

struct Case {
  int n[3], batches = 10, charge = 0, mass = 0;
  long histories = 0, seed = 1;
  double step[3], first[3];                    // mm: x, y, z of voxel size and of the first voxel's centre
  double iso[3], axis[3][3], source[2], start; // beam's eye view; `start` mm upstream of the isocentre
  std::vector<double> ratio;                   // stopping-power ratio per material
  std::vector<double> planes;                  // w (mm from the isocentre to the source) of scored planes
  std::vector<Spot> spots;
  std::vector<unsigned short> voxel;
  std::vector<G4Material*> material;
};

static Case job;
static std::vector<double> dose, square, primary, letAll, letPrimary, batchDose;
static std::map<std::pair<int, int>, double> crossings; // (plane, charge) -> particles

static void read(const std::string& folder) {
  std::ifstream in(folder + "/case.txt");
  std::string key;
  auto nist = G4NistManager::Instance();
  while (in >> key) {
    if (key == "grid") {
      for (int i = 0; i < 3; ++i) in >> job.n[i];
      for (int i = 0; i < 3; ++i) in >> job.step[i];
      for (int i = 0; i < 3; ++i) in >> job.first[i];
    } else if (key == "material") { // name, density g/cm3, I eV, stopping-power ratio, number of elements, (symbol, mass fraction)
      std::string name, symbol;
      double density, excitation, ratio, fraction;
      int elements;
      in >> name >> density >> excitation >> ratio >> elements;
      auto made = new G4Material(name, density * g / cm3, elements);
      for (int i = 0; i < elements; ++i) {
        in >> symbol >> fraction;
        made->AddElement(nist->FindOrBuildElement(symbol), fraction);
      }
      made->GetIonisation()->SetMeanExcitationEnergy(excitation * eV);
      job.material.push_back(made);
      job.ratio.push_back(ratio);
    } else if (key == "ion") {
      in >> job.charge >> job.mass;
    } else if (key == "beam") {
      for (double& c : job.iso) in >> c;
      for (auto& row : job.axis)
        for (double& c : row) in >> c;
      in >> job.source[0] >> job.source[1] >> job.start;
    } else if (key == "plane") {
      double w;
      in >> w;
      job.planes.push_back(w);
    } else if (key == "spot") {
      Spot s;
      in >> s.u >> s.v >> s.energy >> s.spread >> s.var0 >> s.var1 >> s.var2 >> s.weight;
      job.spots.push_back(s);
    } else if (key == "run") {
      in >> job.histories >> job.batches >> job.seed;
    } else {
      std::cerr << "case.txt: unknown word " << key << "\n";
      std::exit(2);
    }
  }
  const size_t size = size_t(job.n[0]) * job.n[1] * job.n[2];
  job.voxel.resize(size);
  std::ifstream raw(folder + "/voxels.raw", std::ios::binary);
  raw.read(reinterpret_cast<char*>(job.voxel.data()), size * sizeof(unsigned short));
  if (!raw || job.spots.empty() || job.histories <= 0) {
    std::cerr << folder << ": voxels, spots or histories are missing\n";
    std::exit(2);
  }
}

// Voxels along x in a row, with the material of the case; rows and slices are replicas.
class Row : public G4VNestedParameterisation {
 public:
  G4Material* ComputeMaterial(G4VPhysicalVolume*, const G4int x, const G4VTouchable* parent) override {
    if (!parent) return job.material[0];
    const size_t y = parent->GetReplicaNumber(0), z = parent->GetReplicaNumber(1);
    return job.material[job.voxel[(z * job.n[1] + y) * job.n[0] + x]];
  }
  G4int GetNumberOfMaterials() const override { return int(job.material.size()); }
  G4Material* GetMaterial(G4int k) const override { return job.material[k]; }
  void ComputeTransformation(const G4int x, G4VPhysicalVolume* volume) const override {
    volume->SetTranslation(G4ThreeVector((x + 0.5 - 0.5 * job.n[0]) * job.step[0], 0, 0));
  }
  using G4VNestedParameterisation::ComputeMaterial;
};

class Phantom : public G4VUserDetectorConstruction {
 public:
  G4VPhysicalVolume* Construct() override {
    auto vacuum = G4NistManager::Instance()->FindOrBuildMaterial("G4_Galactic");
    double half[3];
    G4ThreeVector middle;
    for (int i = 0; i < 3; ++i) {
      half[i] = 0.5 * job.step[i] * job.n[i];
      middle[i] = job.first[i] + 0.5 * job.step[i] * (job.n[i] - 1);
    }
    auto volume = [&](const char* name, double x, double y, double z) {
      return new G4LogicalVolume(new G4Box(name, x, y, z), vacuum, name);
    };
    auto world = volume("world", 3 * m, 3 * m, 3 * m);
    auto place = new G4PVPlacement(nullptr, G4ThreeVector(), world, "world", nullptr, false, 0);
    auto box = volume("box", half[0], half[1], half[2]);
    new G4PVPlacement(nullptr, middle, box, "box", world, false, 0);
    auto slice = volume("slice", half[0], half[1], job.step[2] / 2);
    new G4PVReplica("slice", slice, box, kZAxis, job.n[2], job.step[2]);
    auto row = volume("row", half[0], job.step[1] / 2, job.step[2] / 2);
    new G4PVReplica("row", row, slice, kYAxis, job.n[1], job.step[1]);
    auto voxel = volume("voxel", job.step[0] / 2, job.step[1] / 2, job.step[2] / 2);
    new G4PVParameterised("voxel", voxel, row, kUndefined, job.n[0], new Row());
    return place;
  }
};

class Physics : public G4VUserPhysicsList {
 public:
  explicit Physics(bool qmd) : qmd_(qmd) {
    auto p = G4EmParameters::Instance();
    p->SetDefaults();
    p->SetFluo(false);
    p->SetStepFunction(0.1, 0.05 * mm);
    p->SetStepFunctionLightIons(0.1, 0.02 * mm);
    p->SetStepFunctionIons(0.1, 0.02 * mm);
    p->SetVerbose(0);
    defaultCutValue = 100 * m; // no delta electrons
    SetVerboseLevel(0);
  }
  void ConstructParticle() override {
    G4BosonConstructor::ConstructParticle();
    G4LeptonConstructor::ConstructParticle();
    G4MesonConstructor::ConstructParticle();
    G4BaryonConstructor::ConstructParticle();
    G4IonConstructor::ConstructParticle();
    G4ShortLivedConstructor::ConstructParticle();
  }
  void ConstructProcess() override {
    AddTransportation();
    const std::vector<G4ParticleDefinition*> charged = {G4Proton::Proton(), G4Deuteron::Deuteron(), G4Triton::Triton(),
                                                        G4He3::He3(),       G4Alpha::Alpha(),       G4GenericIon::GenericIon()};
    for (auto particle : charged) {
      auto manager = particle->GetProcessManager();
      manager->AddProcess(new G4hMultipleScattering(), -1, 1, 1);
      if (particle->GetPDGCharge() > 1.5 || particle == G4GenericIon::GenericIon())
        manager->AddProcess(new G4ionIonisation(), -1, 2, 2);
      else
        manager->AddProcess(new G4hIonisation(), -1, 2, 2);
      auto inelastic = new G4HadronInelasticProcess(particle->GetParticleName() + "Inelastic", particle);
      if (particle == G4Proton::Proton()) {
        inelastic->AddDataSet(new G4BGGNucleonInelasticXS(particle));
        auto cascade = new G4BinaryCascade();
        cascade->SetMaxEnergy(2 * GeV);
        inelastic->RegisterMe(cascade);
        auto elastic = new G4HadronElasticProcess();
        elastic->AddDataSet(new G4BGGNucleonElasticXS(particle));
        elastic->RegisterMe(new G4ChipsElasticModel());
        manager->AddDiscreteProcess(elastic);
      } else {
        inelastic->AddDataSet(new G4CrossSectionInelastic(new G4ComponentGGNuclNuclXsc()));
        G4HadronicInteraction* model = nullptr;
        if (qmd_ && particle == G4GenericIon::GenericIon())
          model = new G4QMDReaction();
        else
          model = new G4BinaryLightIonReaction();
        model->SetMinEnergy(0);
        model->SetMaxEnergy(20 * GeV);
        inelastic->RegisterMe(model);
      }
      manager->AddDiscreteProcess(inelastic);
    }
  }

 private:
  bool qmd_;
};

class Source : public G4VUserPrimaryGeneratorAction {
 public:
  Source() : gun_(1) {
    double sum = 0;
    for (const auto& s : job.spots) cumulative_.push_back(sum += s.weight);
    for (double& c : cumulative_) c /= sum;
  }
  void GeneratePrimaries(G4Event* event) override {
    if (!ion_) {
      ion_ = job.charge == 1 ? static_cast<G4ParticleDefinition*>(G4Proton::Proton())
             : job.charge == 2 ? static_cast<G4ParticleDefinition*>(G4Alpha::Alpha())
                               : G4IonTable::GetIonTable()->GetIon(job.charge, job.mass, 0.0);
      gun_.SetParticleDefinition(ion_);
    }
    const size_t k = std::lower_bound(cumulative_.begin(), cumulative_.end(), G4UniformRand()) - cumulative_.begin();
    const Spot& s = job.spots[std::min(k, job.spots.size() - 1)];
    // variance in air: var0 + var1 w + var2 w^2 along w; the beam flies towards smaller w
    const double w = job.start, x2 = s.var0 + s.var1 * w + s.var2 * w * w, xt = -0.5 * (s.var1 + 2 * s.var2 * w);
    const double t2 = std::max(s.var2, x2 > 0 ? xt * xt / x2 : 0.0);
    double place[2], slope[2];
    for (int i = 0; i < 2; ++i) {
      const double a = G4RandGauss::shoot(), b = G4RandGauss::shoot();
      const double off = std::sqrt(std::max(x2, 0.0)) * a;
      const double tilt = x2 > 0 ? xt / std::sqrt(x2) * a + std::sqrt(std::max(t2 - xt * xt / x2, 0.0)) * b : 0.0;
      const double at = i == 0 ? s.u : s.v; // in the isocentre plane; the axis of a spot starts in the virtual source
      place[i] = at * (job.source[i] - w) / job.source[i] + off;
      slope[i] = at / job.source[i] + tilt; // lateral motion per mm of flight
    }
    G4ThreeVector position, direction;
    for (int c = 0; c < 3; ++c) {
      position[c] = job.iso[c] + place[0] * job.axis[0][c] + place[1] * job.axis[1][c] + w * job.axis[2][c];
      direction[c] = slope[0] * job.axis[0][c] + slope[1] * job.axis[1][c] - job.axis[2][c];
    }
    const double energy = std::max(s.energy + s.spread * G4RandGauss::shoot(), 0.1);
    gun_.SetParticleEnergy(energy * job.mass * MeV); // MeV/u: kinetic energy per nucleon
    gun_.SetParticlePosition(position);
    gun_.SetParticleMomentumDirection(direction.unit());
    gun_.GeneratePrimaryVertex(event);
  }

 private:
  G4ParticleGun gun_;
  G4ParticleDefinition* ion_ = nullptr;
  std::vector<double> cumulative_;
};

class Stacking : public G4UserStackingAction {
 public:
  G4ClassificationOfNewTrack ClassifyNewTrack(const G4Track* track) override {
    return track->GetParentID() > 0 && track->GetDefinition()->GetPDGCharge() <= 0 ? fKill : fUrgent;
  }
};

// Unrestricted electronic stopping power in water, keV/um, of a particle with energy E per nucleon: tabulated at first use.
static double letInWater(const G4ParticleDefinition* particle, double kinetic) {
  static std::map<const G4ParticleDefinition*, std::vector<double>> tables;
  static G4EmCalculator calculator;
  const int points = 161;
  const double low = std::log(1e-3), high = std::log(2e3), mass = particle->GetPDGMass() / amu_c2;
  auto& table = tables[particle];
  if (table.empty())
    for (int i = 0; i < points; ++i) {
      const double e = std::exp(low + (high - low) * i / (points - 1)) * mass * MeV;
      table.push_back(calculator.ComputeElectronicDEDX(e, particle, job.material[0]) / (keV / um));
    }
  const double place = (std::log(std::max(kinetic / mass / MeV, 1e-3)) - low) / (high - low) * (points - 1);
  const int i = std::min(std::max(int(place), 0), points - 2);
  return table[i] + (table[i + 1] - table[i]) * std::min(std::max(place - i, 0.0), 1.0);
}

class Scorer : public G4UserSteppingAction {
 public:
  void UserSteppingAction(const G4Step* step) override {
    G4Track* track = step->GetTrack();
    if (track->GetCurrentStepNumber() > 20000) track->SetTrackStatus(fStopAndKill);
    const auto particle = track->GetDefinition();
    const int charge = int(std::lround(particle->GetPDGCharge()));
    const auto a = step->GetPreStepPoint()->GetPosition(), b = step->GetPostStepPoint()->GetPosition();
    if (!job.planes.empty()) {
      const double wa = along(a), wb = along(b);
      for (size_t k = 0; k < job.planes.size(); ++k)
        if (wa > job.planes[k] && wb <= job.planes[k]) crossings[{int(k), charge}] += 1;
    }
    const double deposit = step->GetTotalEnergyDeposit();
    if (deposit <= 0 || charge <= 0) return;
    const auto middle = 0.5 * (a + b);
    int i[3];
    for (int c = 0; c < 3; ++c) {
      i[c] = int(std::floor((middle[c] - job.first[c]) / job.step[c] + 0.5));
      if (i[c] < 0 || i[c] >= job.n[c]) return;
    }
    const size_t voxel = (size_t(i[2]) * job.n[1] + i[1]) * job.n[0] + i[0];
    const double in_water = deposit / MeV / job.ratio[job.voxel[voxel]];
    const double kinetic = 0.5 * (step->GetPreStepPoint()->GetKineticEnergy() + step->GetPostStepPoint()->GetKineticEnergy());
    const double let = letInWater(particle, kinetic);
    batchDose[voxel] += in_water;
    letAll[voxel] += in_water * let;
    if (track->GetTrackID() == 1) {
      primary[voxel] += in_water;
      letPrimary[voxel] += in_water * let;
    }
  }

 private:
  static double along(const G4ThreeVector& p) {
    double w = 0;
    for (int c = 0; c < 3; ++c) w += (p[c] - job.iso[c]) * job.axis[2][c];
    return w;
  }
};

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: transport CASE_FOLDER [bic|qmd]\n";
    return 2;
  }
  const std::string folder = argv[1];
  read(folder);
  CLHEP::HepRandom::setTheSeed(job.seed);
  const size_t size = job.voxel.size();
  for (auto* a : {&dose, &square, &primary, &letAll, &letPrimary, &batchDose}) a->assign(size, 0.0);
  auto manager = new G4RunManager();
  manager->SetVerboseLevel(0);
  manager->SetUserInitialization(new Phantom());
  manager->SetUserInitialization(new Physics(argc > 2 && std::string(argv[2]) == "qmd"));
  manager->SetUserAction(new Source());
  manager->SetUserAction(new Stacking());
  manager->SetUserAction(new Scorer());
  manager->Initialize();
  const long each = job.histories / job.batches;
  for (int batch = 0; batch < job.batches; ++batch) {
    manager->BeamOn(int(each));
    for (size_t v = 0; v < size; ++v) {
      dose[v] += batchDose[v];
      square[v] += batchDose[v] * batchDose[v];
      batchDose[v] = 0;
    }
  }
  std::ofstream out(folder + "/scores.raw", std::ios::binary);
  for (auto* a : {&dose, &square, &primary, &letAll, &letPrimary})
    out.write(reinterpret_cast<const char*>(a->data()), size * sizeof(double));
  std::ofstream text(folder + "/crossings.txt");
  text << "histories " << each * job.batches << " batches " << job.batches << "\n";
  for (const auto& [key, number] : crossings) text << key.first << " " << key.second << " " << number << "\n";
  return out.good() && text.good() ? 0 : 1;
}
